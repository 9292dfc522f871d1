"""A schema file, YAML: read with the line of whatever is wrong, and written so that reading it again gives the same.

Only its form is judged here. Whether names, templates and numbers will do is for the gateway to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import yaml

from ragkeep_client.output import CommandError
from ragkeep_client.schema import Field, FieldType, Quantization, Schema

T = TypeVar("T")
MAX_BYTES = 1024 * 1024
_TYPES = ("text", "keyword", "number", "boolean", "timestamp")
_QUANTIZATIONS = ("none", "pq", "bq", "sq", "rq")
_MAX_INTEGER = 2**32 - 1
_TAG = "tag:yaml.org,2002:"


class SchemaError(CommandError):
    """The file is no schema; the message names the line."""

    def __init__(self, message: str) -> None:
        super().__init__("SCHEMA_INVALID", message)


def read_schema(content: bytes, source: str) -> Schema:
    """The schema; `source` is what messages call the file. Raises SchemaError."""
    if len(content) > MAX_BYTES:
        raise SchemaError(f"{source} is larger than {MAX_BYTES} bytes: that is no schema.")
    try:
        text = content.decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise SchemaError(f"{source} is not UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SchemaError(f"{source}, line {line}: this is not YAML: {error.problem}.") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SchemaError(f"{source} is not YAML.") from None
    if node is None:
        raise SchemaError(f"{source} is empty. A schema has at least a name and fields.")
    return _Reader(source).schema(node)


class _Reader:
    """Walks the nodes as a schema has them, and no deeper, whatever aliases say."""

    def __init__(self, source: str) -> None:
        self._source = source

    def schema(self, node: yaml.Node) -> Schema:
        known = {
            "name",
            "fields",
            "content_template",
            "title_field",
            "chunking",
            "prompt_template",
            "minimum_evidence",
            "vector_index",
        }
        parts = self._mapping(node, "A schema", known)
        for needed in ("name", "fields"):
            if needed not in parts:
                raise self._wrong(node, f"A schema needs {needed}.")
        chunking = self._part(parts, "chunking", {"cjk_characters", "latin_characters"})
        evidence = self._part(parts, "minimum_evidence", {"coverage", "margin"})
        index = self._part(parts, "vector_index", {"ef", "ef_construction", "max_connections", "quantization"})
        return Schema(
            name=self._text(parts["name"], "name"),
            fields=self._fields(parts["fields"]),
            content_template=self._of(parts, "content_template", self._text, ""),
            title_field=self._of(parts, "title_field", self._text, ""),
            cjk_characters=self._of(chunking, "cjk_characters", self._integer, 0),
            latin_characters=self._of(chunking, "latin_characters", self._integer, 0),
            prompt_template=self._of(parts, "prompt_template", self._text, ""),
            minimum_coverage=self._of(evidence, "coverage", self._number, None),
            minimum_margin=self._of(evidence, "margin", self._number, None),
            ef=self._of(index, "ef", self._integer, 0),
            ef_construction=self._of(index, "ef_construction", self._integer, 0),
            max_connections=self._of(index, "max_connections", self._integer, 0),
            quantization=self._of(index, "quantization", self._quantization, "none"),
        )

    def _fields(self, node: yaml.Node) -> tuple[Field, ...]:
        found = []
        for name, value in self._mapping(node, "fields", None).items():
            if isinstance(value, yaml.ScalarNode):
                found.append(Field(name, self._type(value, name)))
                continue
            what = f"The field {name}"
            parts = self._mapping(value, what, {"type", "searchable", "filterable", "required", "sealed"})
            if "type" not in parts:
                raise self._wrong(value, f"{what} needs a type: {', '.join(_TYPES)}.")
            flags = {
                flag: self._of(parts, flag, self._boolean, False) for flag in ("filterable", "required", "searchable", "sealed")
            }
            found.append(Field(name, self._type(parts["type"], name), **flags))
        return tuple(found)

    # Kinds of values

    def _mapping(self, node: yaml.Node, what: str, known: set[str] | None) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self._wrong(node, f"{what} must be a mapping (name: value).")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise self._wrong(key, f"{what} has {str(shown)[:64]!r} where a name is needed; quote it if it is one.")
            if known is not None and key.value not in known:
                raise self._wrong(key, f"{what} has no {key.value[:64]!r}; it may have: {', '.join(sorted(known))}.")
            if key.value in found:
                raise self._wrong(key, f"{what} has {key.value[:64]!r} twice.")
            found[key.value] = value
        return found

    def _part(self, parts: dict[str, yaml.Node], name: str, known: set[str]) -> dict[str, yaml.Node]:
        return self._mapping(parts[name], name, known) if name in parts else {}

    def _of(self, parts: dict[str, yaml.Node], name: str, read: Callable[[yaml.Node, str], T], otherwise: T) -> T:
        return read(parts[name], name) if name in parts else otherwise

    def _text(self, node: yaml.Node, name: str) -> str:
        return self._scalar(node, name, "str", "a text; quote it if it is one")

    def _boolean(self, node: yaml.Node, name: str) -> bool:
        return self._scalar(node, name, "bool", "true or false").lower() in ("true", "yes", "on")

    def _integer(self, node: yaml.Node, name: str) -> int:
        value = self._scalar(node, name, "int", "a whole number")
        if not (value.isascii() and value.isdigit() and len(value) < 11 and int(value) <= _MAX_INTEGER):
            raise self._wrong(node, f"{name} must be a whole number of 0 to {_MAX_INTEGER}.")
        return int(value)

    def _number(self, node: yaml.Node, name: str) -> float:
        kind: Literal["int", "float"] = "int" if node.tag == f"{_TAG}int" else "float"
        try:
            value = float(self._scalar(node, name, kind, "a number"))
        except ValueError:  # .inf, 1:30, 0x10: YAML takes these for numbers
            value = math.nan
        if not math.isfinite(value):
            raise self._wrong(node, f"{name} must be a number.")
        return value

    def _type(self, node: yaml.Node, name: str) -> FieldType:
        return cast(FieldType, self._one_of(node, f"The type of the field {name}", _TYPES))

    def _quantization(self, node: yaml.Node, name: str) -> Quantization:
        return cast(Quantization, self._one_of(node, name, _QUANTIZATIONS))

    def _one_of(self, node: yaml.Node, what: str, known: tuple[str, ...]) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.value not in known:
            raise self._wrong(node, f"{what} must be one of: {', '.join(known)}.")
        return str(node.value)

    def _scalar(self, node: yaml.Node, name: str, kind: str, words: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TAG + kind:
            raise self._wrong(node, f"{name} must be {words}.")
        return str(node.value)

    def _wrong(self, node: yaml.Node, message: str) -> SchemaError:
        return SchemaError(f"{self._source}, line {node.start_mark.line + 1}: {message}")


class _Dumper(yaml.SafeDumper):
    pass


def _written(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _written)


def write_schema(schema: Schema) -> str:
    """The schema as a file."""
    found: dict[str, Any] = {"name": schema.name, "fields": {field.name: _field(field) for field in schema.fields}}
    found["content_template"] = schema.content_template
    found["title_field"] = schema.title_field
    found["chunking"] = _set(cjk_characters=schema.cjk_characters or None, latin_characters=schema.latin_characters or None)
    found["prompt_template"] = schema.prompt_template
    found["minimum_evidence"] = _set(coverage=schema.minimum_coverage, margin=schema.minimum_margin)
    found["vector_index"] = _set(
        ef=schema.ef or None,
        ef_construction=schema.ef_construction or None,
        max_connections=schema.max_connections or None,
        quantization=schema.quantization,
    )
    kept = {name: value for name, value in found.items() if value not in ("", {}) or name in ("name", "fields")}
    return yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1 << 20)


def _set(**values: Any) -> dict[str, Any]:
    """Those that are."""
    return {name: value for name, value in values.items() if value is not None}


def _field(field: Field) -> dict[str, Any]:
    flags = {name: True for name in ("searchable", "filterable", "required", "sealed") if getattr(field, name)}
    return {"type": field.type, **flags}
