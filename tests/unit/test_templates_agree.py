"""A prompt template is checked twice: when a collection takes it and when the generator does. Both must say the same."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ragkeep_generator.template import MAX_CHARACTERS, check_template
from ragkeep_retriever.templates import check_prompt
from ragkeep_runtime.errors import TemplateInvalid

PIECES = [
    "{passages}",
    "{question}",
    "{language}",
    "{not_found}",
    "{other}",
    "{",
    "}",
    "{{",
    "}}",
    "!r",
    ":>9",
    "[0]",
    ".x",
    "字",
    "\0",
]


def taken(check: Callable[[str], None], template: str) -> bool:
    """Whether the check lets it pass."""
    try:
        check(template)
    except TemplateInvalid:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1).map("".join))
@example("{passages}{question}" + "x" * (MAX_CHARACTERS - 20))
@example("{passages}{question}" + "x" * (MAX_CHARACTERS - 19))
def test_what_a_collection_takes_the_generator_takes(template: str) -> None:
    """And nothing else; an empty one is never sent."""
    assert taken(check_prompt, template) is taken(check_template, template)
