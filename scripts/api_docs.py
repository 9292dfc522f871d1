"""Writes docs/api.md from the comments in the protos: the page and the contract are one source.

With --check: fails where the page is not what the protos say.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from ragkeep.access.v1 import access_pb2

PAGE = Path("docs/api.md")
# What callers see first; then what the gateway asks of its services.
ORDER = ("gateway", "types", "generator", "errors", "access", "embedder", "retriever")
HEAD = """# The API

Made from the protos' comments by `make api-docs`; edit those. Callers use the gateway's services alone; the embedder, the
generator and the retriever admit the gateway and nobody else.
"""
_TYPES = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}


class Comments:
    """A file's comments by the path of what they stand before."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._found = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

    def of(self, *path: int) -> str:
        """In one line."""
        return " ".join(self._found.get(path, "").split()).replace("|", "\\|")


def files() -> list[FileDescriptorProto]:
    """The protos with their comments, in the page's order."""
    protos = sorted(str(path.relative_to("protos")) for path in Path("protos").rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        command = ["-Iprotos", "--include_source_info", f"--descriptor_set_out={out.name}", *protos]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], check=True)  # noqa: S603 - our own protos
        found = FileDescriptorSet.FromString(Path(out.name).read_bytes()).file
    return sorted(found, key=lambda file: ORDER.index(file.package.split(".")[1]))


def page() -> str:
    """All of it."""
    lines = [HEAD]
    for file in files():
        comments = Comments(file)
        lines += [f"\n## {_title(file)}\n", comments.of(2) or comments.of(12), ""]
        for number, service in enumerate(file.service):
            lines += [f"\n### {service.name}\n", comments.of(6, number), ""]
            for place, method in enumerate(service.method):
                rule = method.options.Extensions[access_pb2.access]
                stream = "stream " if method.server_streaming else ""
                shape = f"{method.name}({_short(method.input_type)}) returns ({stream}{_short(method.output_type)})"
                lines += [f"\n#### {service.name}.{method.name}\n", f"`rpc {shape}`, for {_who(rule)}.\n"]
                lines.append(comments.of(6, number, 2, place))
        for number, message in enumerate(file.message_type):
            lines += _message(message, comments, (4, number))
        for number, enum in enumerate(file.enum_type):
            lines += _enum(enum, comments, (5, number))
    return "\n".join(lines).rstrip() + "\n"


def _message(message: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"\n### {message.name}\n"
    yield comments.of(*path)
    if message.field:
        yield "\n| field | type | what it is |\n|---|---|---|"
    for number, field in enumerate(message.field):
        chosen = field.HasField("oneof_index") and not field.proto3_optional
        one_of = f" ({message.oneof_decl[field.oneof_index].name})" if chosen else ""
        yield f"| `{field.name}`{one_of} | {_type(field)} | {comments.of(*path, 2, number)} |"
    for number, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(nested, comments, (*path, 3, number))
    for number, enum in enumerate(message.enum_type):
        yield from _enum(enum, comments, (*path, 4, number))


def _enum(enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"\n### {enum.name}\n"
    yield comments.of(*path)
    yield "\n| value | number | what it means |\n|---|---|---|"
    for number, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {comments.of(*path, 2, number)} |"


def _type(field: FieldDescriptorProto) -> str:
    name = f"`{_short(field.type_name)}`" if field.type_name else _TYPES[field.type]
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return ("repeated " if repeated else "optional " if field.proto3_optional else "") + name


def _short(name: str) -> str:
    parts = name.lstrip(".").split(".")
    return ".".join(part for part in parts if part[:1].isupper()) or name


def _title(file: FileDescriptorProto) -> str:
    """The package; where it has several files, those beside its first one say which."""
    stem = Path(file.name).stem
    return file.package if stem == file.package.split(".")[1] else f"{file.package}: {stem}"


def _who(rule: access_pb2.Access) -> str:
    names = [access_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in rule.roles]
    callers = "callers in the role " + " or ".join(names) if "*" in rule.peers else ""
    callers += " who act for the operator" if rule.operator else ""
    return " and ".join([*(f"the {peer}" for peer in rule.peers if peer != "*"), *([callers] if callers else [])])


def main() -> int:
    """Writes or checks the page."""
    wanted = page()
    if "--check" not in sys.argv:
        PAGE.write_text(wanted)
        return 0
    if PAGE.exists() and PAGE.read_text() == wanted:
        return 0
    print("docs/api.md is not what the protos say: run 'make api-docs' and commit what changes.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
