"""Templates of a collection: text in which {name} stands for something. Checked when they are set, so that use cannot fail."""

from __future__ import annotations

import string
from collections.abc import Collection as Names

from ragkeep_runtime.errors import FieldSealed, TemplateInvalid

MAX_CONTENT, MAX_PROMPT = 8000, 16_000
# As the generator fills them in.
_REQUIRED, _OPTIONAL = ("passages", "question"), ("language", "not_found")


def content_names(template: str, fields: Names[str], sealed: Names[str] = ()) -> set[str]:
    """The fields that stand in a content template. Raises TemplateInvalid, or FieldSealed for one of `sealed`."""
    used = set(_names(template, [name for name in fields if name not in sealed], "content", MAX_CONTENT, sealed))
    if not used:
        raise TemplateInvalid(
            f"The content template holds no {{field}}, so every document would be the same. It may hold: {_listed(fields)}.",
            field="collection.content_template",
        )
    return used


def check_prompt(template: str, sealed: Names[str] = ()) -> None:
    """Raises TemplateInvalid for a prompt template that cannot be used, FieldSealed for one that names a sealed field.

    An empty one stands for the generator's own.
    """
    if not template:
        return
    used = _names(template, _REQUIRED + _OPTIONAL, "prompt", MAX_PROMPT, sealed)
    for name in _REQUIRED:
        if used.count(name) != 1:
            raise TemplateInvalid(
                f"The prompt template must hold {{{name}}} exactly once; it is there {used.count(name)} times.",
                field="collection.prompt_template",
            )


def _names(template: str, known: Names[str], which: str, most: int, sealed: Names[str]) -> list[str]:
    field = f"collection.{which}_template"
    if len(template) > most or "\0" in template:
        raise TemplateInvalid(f"The {which} template has at most {most} characters, and no NUL among them.", field=field)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        # Python's own words differ between releases.
        raise TemplateInvalid(
            f"The {which} template has a brace without its partner; one that is meant is written {{{{ or }}}}.", field=field
        ) from None
    used: list[str] = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        # A format or conversion ({title!r}) makes the name one that is not known.
        whole = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        if name in sealed and whole not in known:
            raise FieldSealed(
                f"The {which} template names the sealed field {name}, and what it makes is in the open: take it out.",
                field=field,
            )
        if whole not in known:
            raise TemplateInvalid(
                f"The {which} template has the unknown placeholder {{{whole[:64]}}}; known are {_listed(known)}. A brace that "
                "is meant is written {{ or }}.",
                field=field,
            )
        used.append(name)
    return used


def _listed(names: Names[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
