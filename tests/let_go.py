"""A pytest plugin: what a failed test had open goes with it.

Its traceback holds connections and files, and would let go of them in the middle of the next test, which would fail for the
warnings.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator

import pytest

_FAILED = pytest.StashKey[bool]()


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Of its setup, its call or its teardown."""
    if call.excinfo is not None:
        item.stash[_FAILED] = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """After the last word on it."""
    result = yield
    if item.stash.get(_FAILED, False):
        # Where pytest keeps the last failure for a debugger.
        sys.last_type = sys.last_value = sys.last_traceback = None
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
    return result
