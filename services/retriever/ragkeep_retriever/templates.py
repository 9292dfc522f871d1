"""Templates of a collection: text in which {name} stands for something. Checked when they are set, so that use cannot fail."""

from __future__ import annotations

import string
from collections.abc import Collection as Names

from ragkeep_runtime.errors import TemplateInvalid

MAX_TEMPLATE = 8000
PROMPT_NEEDS, PROMPT_TAKES = ("passages", "question"), ("passages", "question", "not_found")


def content_names(template: str, fields: Names[str]) -> set[str]:
    """The fields that stand in a content template. Raises TemplateInvalid."""
    used = _names(template, fields, "content_template", "fields of the collection")
    if not used:
        raise TemplateInvalid(
            f"The content template holds no {{field}}, so every document would be the same. It may hold: {_listed(fields)}.",
            field="collection.content_template",
        )
    return used


def check_prompt(template: str) -> None:
    """Raises TemplateInvalid for a prompt template that cannot be used; an empty one stands for the generator's own."""
    if not template:
        return
    used = _names(template, PROMPT_TAKES, "prompt_template", "what a prompt is made of")
    missing = [f"{{{name}}}" for name in PROMPT_NEEDS if name not in used]
    if missing:
        raise TemplateInvalid(
            f"The prompt template needs {' and '.join(missing)}: the model would not see what it is to answer.",
            field="collection.prompt_template",
        )


def _names(template: str, allowed: Names[str], where: str, what: str) -> set[str]:
    field, words = f"collection.{where}", where.replace("_", " ")
    if len(template) > MAX_TEMPLATE or "\0" in template:
        raise TemplateInvalid(f"The {words} has at most {MAX_TEMPLATE} characters, and no NUL among them.", field=field)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        # Python's own words differ between releases.
        raise TemplateInvalid(
            f"The {words} has a brace without its other half. A brace that is meant as such is written twice.", field=field
        ) from None
    used: set[str] = set()
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in allowed or spec or conversion:
            shown = name[:64] + (f"!{conversion}" if conversion else "") + (f":{spec[:16]}" if spec else "")
            raise TemplateInvalid(
                f"The {words} holds {{{shown}}}; in braces stand {what} alone: {_listed(allowed)}.", field=field
            )
        used.add(name)
    return used


def _listed(names: Names[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
