"""Prompt templates: the whole prompt in the words of whoever runs the installation, with placeholders, checked before use.

| placeholder | | stands for |
|---|---|---|
| `{passages}` | exactly once | the passages that fit and the conversation, quoted between markers, and what those mean |
| `{question}` | exactly once | the question |
| `{language}` | may | the name of the language to answer in, in English |
| `{not_found}` | may | the sentence that says that the documents do not answer |

`{{` and `}}` are braces. Values are put in as they are: what stands in them is never taken for a placeholder.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

from ragkeep_runtime.errors import TemplateInvalid

REQUIRED, OPTIONAL = ("passages", "question"), ("language", "not_found")
MAX_CHARACTERS = 16_000


def check_template(template: str) -> None:
    """Raises TemplateInvalid, which says what is wrong."""
    if not template.strip() or len(template) > MAX_CHARACTERS or "\0" in template:
        raise TemplateInvalid(
            f"A prompt template has 1 to {MAX_CHARACTERS} characters, and no NUL among them.", field="prompt_template"
        )
    names = [name for _, name in _parts(template) if name is not None]
    for name in names:
        if name not in REQUIRED + OPTIONAL:
            known = ", ".join(f"{{{one}}}" for one in REQUIRED + OPTIONAL)
            raise TemplateInvalid(
                f"The prompt template has the unknown placeholder {{{name[:64]}}}; known are {known}. "
                "A brace that is meant is written {{ or }}.",
                field="prompt_template",
            )
    for name in REQUIRED:
        if names.count(name) != 1:
            raise TemplateInvalid(
                f"The prompt template must hold {{{name}}} exactly once; it is there {names.count(name)} times.",
                field="prompt_template",
            )


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template, which was checked, with its values."""
    return "".join(literal + ("" if name is None else values[name]) for literal, name in _parts(template))


def _parts(template: str) -> list[tuple[str, str | None]]:
    """(text, placeholder after it) of each piece."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        raise TemplateInvalid(
            "The prompt template has a brace without its partner; one that is meant is written {{ or }}.",
            field="prompt_template",
        ) from None
    # A format or conversion ({question!r}) makes the name one that is not known.
    return [
        (text, None if name is None else name + (f"!{kind}" if kind else "") + (f":{spec}" if spec else ""))
        for text, name, spec, kind in parts
    ]
