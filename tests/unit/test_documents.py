"""A document before it is stored: what is refused, what is rendered, what makes it new."""

import pytest

from ragkeep.types.v1.types_pb2 import Document, EmbeddingSpace, Field, FieldType, Value
from ragkeep_gateway.documents import prepare
from ragkeep_gateway.presets import service_ticket
from ragkeep_runtime.errors import DocumentRejected


def _ticket(**changed: str) -> Document:
    values = {"title": "忘记密码", "description": "无法登录", "solution": "自助门户", **changed}
    fields = {name: Value(text=value) for name, value in values.items()}
    return Document(id="T-1", fields={**fields, "ticket_id": Value(keyword="T-1"), "category": Value(keyword="账号管理")})


def test_a_ticket_is_rendered_with_its_id_and_category() -> None:
    """So that the id and the category's words are found."""
    assert prepare(0, _ticket(), service_ticket()).content == "忘记密码\n无法登录\n自助门户\n账号管理 T-1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: setattr(d, "id", ""), "DOCUMENT_ID_INVALID"),
        (lambda d: setattr(d, "id", "a\nb"), "DOCUMENT_ID_INVALID"),
        (lambda d: setattr(d, "id", " a"), "DOCUMENT_ID_INVALID"),
        (lambda d: setattr(d, "id", "x" * 257), "DOCUMENT_ID_INVALID"),
        (lambda d: d.fields.pop("title"), "FIELD_MISSING"),
        (lambda d: d.fields["title"].CopyFrom(Value(text=" \n")), "FIELD_MISSING"),
        (lambda d: d.fields["title"].CopyFrom(Value(number=1)), "FIELD_TYPE_WRONG"),
        (lambda d: d.fields["title"].CopyFrom(Value()), "FIELD_TYPE_WRONG"),
        (lambda d: d.fields["title"].CopyFrom(Value(text="a\0b")), "TEXT_INVALID"),
        (lambda d: d.fields["more"].CopyFrom(Value(text="x")), "FIELD_UNKNOWN"),
        (lambda d: d.fields["title"].CopyFrom(Value(text="x" * 1024 * 1024)), "DOCUMENT_TOO_LARGE"),
        (lambda d: d.groups.append("*"), "INVALID_REQUEST"),
    ],
)
def test_a_wrong_document_is_rejected_with_its_reason(change: object, reason: str) -> None:
    """Each fault has a reason of its own, and the reserved group is refused."""
    document = _ticket()
    change(document)  # type: ignore[operator]
    with pytest.raises(DocumentRejected) as rejected:
        prepare(0, document, service_ticket())
    assert rejected.value.reason == reason


def test_the_version_changes_with_all_that_passages_are_made_from() -> None:
    """Fields, groups, template, chunking and embedding space; not the order in which they came."""
    base = service_ticket()
    same = prepare(0, _ticket(), base).version
    assert prepare(5, _ticket(), base).version == same
    grouped = _ticket()
    grouped.groups.append("hr")
    other_template, other_chunking, other_space = service_ticket(), service_ticket(), service_ticket()
    other_template.content_template += "."
    other_chunking.chunking.cjk_characters = 300
    other_space.space.CopyFrom(EmbeddingSpace(model="m", digest="d", dimension=3))
    versions = [
        prepare(0, _ticket(title="别的"), base).version,
        prepare(0, grouped, base).version,
        *(prepare(0, _ticket(), other).version for other in (other_template, other_chunking, other_space)),
    ]
    assert len({same, *versions}) == 6


def test_values_of_any_type_are_rendered() -> None:
    """Numbers, booleans and moments become text; absent fields become nothing."""
    collection = service_ticket()
    collection.fields.append(Field(name="count", type=FieldType.FIELD_TYPE_NUMBER))
    collection.content_template = "{title} {count} {absent}|"
    document = _ticket()
    document.fields["count"].number = 2.5
    assert prepare(0, document, collection).content == "忘记密码 2.5 |"
