"""What tests counted and the last lines of a run tell: attacks, executions."""

from __future__ import annotations

from collections import Counter

COUNTED: Counter[str] = Counter()
