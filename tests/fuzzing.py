"""Random messages of any type of the contract, and bytes that almost are one. All from one seed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_DEPTH, _REPEATED = 4, 3
TEXTS = (
    "", " ", "a", "demo", "service-tickets", "T-1042", "title", "category", "VPN", "*", "打印机脱机", "👩‍👩‍👧‍👦", "e\u0301", "\u202egnp",
    "\x00", "a\x00b", "\n\r\t", "\ufeff", "\ufffe", "../../etc/passwd", "'; DROP TABLE passages; --", "\" OR 1=1", "%s%n{0}{title}",
    "{{title}}", "{passages}{question}", "[1]", "<|im_start|>system", "null", "NaN", "1e400", "-0", "2020-02-30T25:61:00Z", "p99999999999D",
    "2024-01-01", "x" * 129, "x" * 8001, "字" * 3000, "a b " * 2000, "\u0301" * 500, "multilingual-e5-small", "slow", "quote",
)  # fmt: skip
# By a field's name, what it may well be: to get past the first check.
_RIGHT: dict[str, Sequence[Any]] = {
    "alpha": (0.0, 0.3, 0.5, 1.0),
    "answer": ("It was the driver.",),
    "ciphertext": (bytes(48),),
    "cjk_characters": (100, 350),
    "content_template": ("{title}", "{title} {problem}"),
    "collection": ("service-tickets",),
    "collection_revision": (1,),
    "coverage": (0.0, 0.2),
    "dimension": (384,),
    "document_id": ("T-1042", "T-1001", "none"),
    "document_ids": ("T-1042", "none"),
    "field": ("category", "severity", "created_at", "title"),
    "float32_le": (struct.pack("<384f", 1.0, *[0.0] * 383), struct.pack("<384f", *[384**-0.5] * 384)),
    "groups": ("g1", "群组"),
    "id": ("T-1042", "F-1", "F-2", "F-3"),
    "ids": ("T-1042", "F-1"),
    "key": ("title", "category", "severity", "problem", "resolution"),
    "keyword": ("VPN", "printer"),
    "language": ("", "en", "zh"),
    "latin_characters": (300, 1000),
    "limit": (1, 5, 1000),
    "margin": (0.0, 0.04),
    "max_tokens": (1, 64),
    "minimum_cosine": (-1.0, 0.0, 0.8),
    "model": ("multilingual-e5-small", "quote", ""),
    "name": ("service-tickets", "fuzz", "fuzz-2", "acme"),
    "names": ("g1", "群组"),
    "nanos": (0, 999_999_999),
    "nonce": (bytes(12),),
    "number": (0, 1, 2, 4),
    "page_size": (1, 10),
    "page_token": ("",),
    "passages_per_document": (0, 1, 2),
    "preset": ("", "service-tickets"),
    "prompt_template": ("", "{passages} {question}"),
    "query": ("VPN error 809", "打印机脱机"),
    "question": ("VPN error 809", "打印机脱机"),
    "seconds": (0, 1_700_000_000),
    "searched": ("", "VPN"),
    "seed": (1,),
    "stop": (".",),
    "temperature": (0.0, 0.7),
    "tenant": ("demo", "fuzz"),
    "text": ("VPN error 809 after an update.", "打印机脱机", "2.5"),
    "texts": ("VPN", "打印机脱机"),
    "title_field": ("", "title"),
    "version": (bytes(32), b"v" * 32),
}  # fmt: skip
_INTEGERS = (0, 1, 2, 5, 10, 100, 1000, 1001, 2**31 - 1, 2**32 - 1, 2**63 - 1, -1, -(2**31), -(2**63))
_FLOATS = (0.0, -0.0, 0.04, 0.5, 1.0, -1.0, 2.0, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Messages:
    """Makes messages. `wild` is how often a field is not what it should be: left out, or anything at all."""

    def __init__(self, random: Random, known: Mapping[str, Sequence[Message]] | None = None) -> None:
        self._random = random
        self._known = dict(known or {})  # by the type's full name: those that are right

    def message(self, descriptor: Descriptor, wild: float, depth: int = 0) -> Message:
        """One of the type."""
        random = self._random
        known = self._known.get(descriptor.full_name)
        found: Any = GetMessageClass(descriptor)()
        if known and random.random() < 0.7 * (1 - wild):
            found.CopyFrom(random.choice(known))
            return found  # type: ignore[no-any-return]
        picked = {one.name: random.choice(one.fields).name for one in descriptor.oneofs}
        for field in descriptor.fields:
            one = field.containing_oneof
            if random.random() < wild or (one is not None and (picked[one.name] != field.name or random.random() < 0.1)):
                continue
            self._fill(found, field, wild, depth)
        return found  # type: ignore[no-any-return]

    def _fill(self, found: Any, field: FieldDescriptor, wild: float, depth: int) -> None:
        random, inner = self._random, field.message_type
        if inner is not None and depth >= _DEPTH:
            return
        if inner is not None and inner.GetOptions().map_entry:
            key, value = inner.fields_by_name["key"], inner.fields_by_name["value"]
            for _ in range(random.randrange(1, _REPEATED + 1)):
                name = self._scalar(key, wild)
                if value.message_type is None:
                    getattr(found, field.name)[name] = self._scalar(value, wild)
                else:
                    getattr(found, field.name)[name].CopyFrom(self.message(value.message_type, wild, depth + 1))
        elif field.is_repeated:
            for _ in range(random.randrange(1, _REPEATED + 1)):
                made = self._scalar(field, wild) if inner is None else self.message(inner, wild, depth + 1)
                getattr(found, field.name).append(made)
        elif inner is None:
            setattr(found, field.name, self._scalar(field, wild))
        else:
            getattr(found, field.name).CopyFrom(self.message(inner, wild, depth + 1))

    def _scalar(self, field: FieldDescriptor, wild: float) -> Any:
        random, kind = self._random, field.cpp_type
        if field.name == "follow":
            return False  # it would go on for ever
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        if random.random() >= wild:
            if field.name in _RIGHT:
                return random.choice(_RIGHT[field.name])
            if kind == FieldDescriptor.CPPTYPE_ENUM and field.enum_type is not None:
                return random.choice([value.number for value in field.enum_type.values][1:] or [0])
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return random.choice((0, 1, 2, 99, 2**31 - 1))
        if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return random.choice(_FLOATS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(random.choice((0, 1, 12, 32, 300)))
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return random.choice(TEXTS)
        least, most = _RANGES[kind]
        return min(max(random.choice(_INTEGERS), least), most)


def mutated(raw: bytes, random: Random) -> bytes:
    """A few bits, bytes or pieces are not as they were."""
    found = bytearray(raw or b"\x0a\x01a")
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(found) + 1)
        match random.randrange(7):
            case 0 if at < len(found):
                found[at] ^= 1 << random.randrange(8)
            case 1:
                found[at:at] = random.randbytes(random.randrange(1, 9))
            case 2:
                del found[at : at + random.randrange(1, 9)]
            case 3:
                found[at:at] = found[: random.randrange(len(found) + 1)]
            case 4:
                found[at:at] = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"  # a number too long
            case 5:
                found[at:at] = bytes((random.randrange(1, 16) << 3 | 2,)) + b"\xff\xff\xff\x7f"  # a length of 256 MiB
            case _ if at < len(found):
                found[at] = random.randrange(256)
        if not found:
            found = bytearray(b"\x08")
    return bytes(found)


def nested(descriptor: Descriptor, levels: int) -> bytes:
    """The first field of a message in a message, over and over, whether it may or not."""
    number = next((field.number for field in descriptor.fields if field.message_type is not None), 1)
    raw = b""
    for _ in range(levels):
        raw = _varint(number << 3 | 2) + _varint(len(raw)) + raw
    return raw


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes((value & 127 | 128,))
        value >>= 7
    return found + bytes((value,))
