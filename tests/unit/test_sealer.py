"""One value sealed: it comes back where it belongs, and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ragkeep.types.v1.types_pb2 import Collection, Document, Field, FieldType, SealedValue, Value
from ragkeep_gateway.documents import NO_MARK, prepare, version
from ragkeep_gateway.sealing.sealer import Place, TenantSealer
from ragkeep_runtime.errors import DocumentRejected, SealedValueDamaged, SealingKeyMissing
from ragkeep_runtime.keyring import new_keyring

KEYRING = new_keyring("k1").with_key("k2", active=False)
SALT = b"s" * 32
HERE = Place("staff", "D-1", "salary")


def sealer(tenant: str = "demo", salt: bytes = SALT, **changed: object) -> TenantSealer:
    """For a tenant."""
    return TenantSealer(changed.get("keyring", KEYRING), tenant, salt)  # type: ignore[arg-type]


def _moment(seconds: int) -> Value:
    value = Value()
    value.timestamp.FromSeconds(seconds)
    return value


texts = st.text(st.characters(codec="utf-8"))
values = (
    texts.map(lambda text: Value(text=text))
    | texts.map(lambda text: Value(keyword=text))
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: Value(number=number))
    | st.booleans().map(lambda truth: Value(boolean=truth))
    | st.integers(-62_135_596_800, 253_402_300_799).map(_moment)
)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
places = st.builds(Place, names, names, names)


@settings(max_examples=300, deadline=None)
@given(values, places, names)
def test_any_value_comes_back(value: Value, place: Place, tenant: str) -> None:
    """Of every type, with its type; sealed twice it reads differently each time, and its fingerprint is the same."""
    one = sealer(tenant)
    first, second = one.seal(place, value), one.seal(place, value)
    assert one.open(place, first) == one.open(place, second) == value
    assert one.open(place, first).WhichOneof("kind") == value.WhichOneof("kind")
    assert first.nonce != second.nonce
    assert first.ciphertext != second.ciphertext
    assert one.fingerprint(place, value) == sealer(tenant).fingerprint(place, value)


@settings(max_examples=400, deadline=None)
@given(values, st.data())
def test_a_flipped_bit_anywhere_is_refused(value: Value, data: st.DataObject) -> None:
    """In the nonce, the ciphertext or its tag; with a key's id it is another key's, or nobody's."""
    sealed = sealer().seal(HERE, value)
    part = data.draw(st.sampled_from(["nonce", "ciphertext"]))
    raw = bytearray(getattr(sealed, part))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = SealedValue(key_id=sealed.key_id, nonce=sealed.nonce, ciphertext=sealed.ciphertext)
    setattr(changed, part, bytes(raw))
    with pytest.raises(SealedValueDamaged):
        sealer().open(HERE, changed)
    for wrong in (
        SealedValue(key_id="k2", nonce=sealed.nonce, ciphertext=sealed.ciphertext),
        SealedValue(key_id="", nonce=sealed.nonce, ciphertext=sealed.ciphertext),
        SealedValue(key_id="k1", nonce=sealed.nonce + b"\0", ciphertext=sealed.ciphertext),
        SealedValue(key_id="k1", nonce=b"", ciphertext=sealed.ciphertext),
        SealedValue(key_id="k1", nonce=sealed.nonce, ciphertext=sealed.ciphertext[:-1]),
        SealedValue(key_id="k1", nonce=sealed.nonce),
        SealedValue(),
    ):
        with pytest.raises(SealedValueDamaged):
            sealer().open(HERE, wrong)


@settings(max_examples=400, deadline=None)
@given(names, places, names, places, values)
def test_a_value_opens_in_its_own_place_alone(
    tenant: str, place: Place, other_tenant: str, other_place: Place, value: Value
) -> None:
    """Another tenant, collection, document or field: a value that is moved there is refused, and has another fingerprint."""
    assume((tenant, place) != (other_tenant, other_place))
    sealed = sealer(tenant).seal(place, value)
    with pytest.raises(SealedValueDamaged):
        sealer(other_tenant).open(other_place, sealed)
    assert sealer(tenant).fingerprint(place, value) != sealer(other_tenant).fingerprint(other_place, value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", Place("c", "d", "e")), ("a", Place("bc", "d", "e"))),
        (("a", Place("b", "cd", "e")), ("a", Place("b", "c", "de"))),
        (("a", Place("b", "c", "")), ("a", Place("b", "", "c"))),
        (("a\0", Place("b", "c", "d")), ("a", Place("\0b", "c", "d"))),
    ],
)
def test_places_whose_names_read_alike_are_told_apart(one: tuple[str, Place], other: tuple[str, Place]) -> None:
    """Joined without their lengths these would be the same bytes."""
    value = Value(text="x")
    with pytest.raises(SealedValueDamaged):
        sealer(other[0]).open(other[1], sealer(one[0]).seal(one[1], value))


def test_two_swapped_values_are_refused() -> None:
    """Between two fields of one document, and between two documents."""
    salary, bonus = HERE, Place("staff", "D-1", "bonus")
    low, high = sealer().seal(salary, Value(number=1)), sealer().seal(bonus, Value(number=2))
    for place, sealed in ((salary, high), (bonus, low), (Place("staff", "D-2", "salary"), low)):
        with pytest.raises(SealedValueDamaged):
            sealer().open(place, sealed)


def test_another_salt_opens_nothing() -> None:
    """A tenant that was deleted, and made again under the same name, does not get its values back."""
    sealed = sealer().seal(HERE, Value(text="secret"))
    with pytest.raises(SealedValueDamaged):
        sealer(salt=b"t" * 32).open(HERE, sealed)


def test_a_tenant_without_a_salt_gets_no_key() -> None:
    """It would be that of every other such tenant."""
    with pytest.raises(ValueError, match="salt"):
        sealer(salt=b"")


def test_a_missing_key_is_named() -> None:
    """And nothing else is said; with the key back the value is back."""
    sealed = sealer().seal(HERE, Value(text="planted-secret"))
    rotated = KEYRING.activated("k2").without("k1")
    with pytest.raises(SealingKeyMissing, match="key k1") as refused:
        sealer(keyring=rotated).open(HERE, sealed)
    assert refused.value.metadata == {"key_id": "k1", "field": "salary"}
    assert sealer(keyring=KEYRING.activated("k2")).open(HERE, sealed).text == "planted-secret"


def test_no_error_holds_the_value_or_a_secret() -> None:
    """Whatever is wrong with it, chained errors included."""
    sealed = sealer().seal(HERE, Value(text="planted-secret"))
    with pytest.raises(SealedValueDamaged) as refused:
        sealer(tenant="other").open(HERE, sealed)
    said = repr(refused.value) + str(refused.value.metadata) + repr(refused.value.__cause__) + repr(sealer())
    assert "planted" not in said
    assert refused.value.__cause__ is None
    assert SALT.decode() not in said


def staff() -> Collection:
    """A collection with sealed fields."""
    return Collection(
        name="staff",
        fields=[
            Field(name="name", type=FieldType.FIELD_TYPE_TEXT, searchable=True),
            Field(name="salary", type=FieldType.FIELD_TYPE_NUMBER, sealed=True, required=True),
        ],
        content_template="{name}",
    )


def test_the_version_changes_with_the_value_and_not_with_the_key() -> None:
    """So that a rotation makes no document new, and a new salary does; and nobody can try out which salary makes a version."""

    def of(salary: float, one: TenantSealer, mark: bytes = NO_MARK) -> bytes:
        document = Document(id="D-1", fields={"name": Value(text="Ada"), "salary": Value(number=salary)})
        return version(document, staff(), one, mark)

    first = of(5.0, sealer())
    assert of(5.0, sealer(keyring=KEYRING.activated("k2").without("k1"))) == first
    others = [
        of(6.0, sealer()),
        of(5.0, sealer("other")),
        of(5.0, sealer(salt=b"t" * 32)),
        of(5.0, sealer(keyring=new_keyring("k1"))),
        of(5.0, sealer(), b"m" * 16),
        of(6.0, sealer(), b"m" * 16),
    ]
    assert len({one[16:] for one in (first, *others)}) == 7
    assert {len(one) for one in (first, *others)} == {32}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("salary", Value(text="5"), "FIELD_TYPE_WRONG"),
        ("salary", Value(sealed=SealedValue(key_id="k1", nonce=b"n" * 12, ciphertext=b"c" * 16)), "FIELD_SEALED"),
        ("name", Value(sealed=SealedValue()), "FIELD_SEALED"),
        ("salary", Value(), "FIELD_TYPE_WRONG"),
    ],
)
def test_a_sealed_field_takes_values_of_its_type_and_no_sealed_ones(field: str, value: Value, reason: str) -> None:
    """What a caller says is sealed would be nobody's."""
    document = Document(id="D-1", fields={"name": Value(text="Ada"), "salary": Value(number=5)})
    document.fields[field].CopyFrom(value)
    with pytest.raises(DocumentRejected) as rejected:
        prepare(0, document, staff(), sealer())
    assert rejected.value.reason == reason


def test_a_required_sealed_field_may_not_be_missing_and_is_not_rendered() -> None:
    """Its value stands in no text that is indexed."""
    document = Document(id="D-1", fields={"name": Value(text="Ada"), "salary": Value(number=5)})
    assert prepare(0, document, staff(), sealer()).content == "Ada"
    del document.fields["salary"]
    with pytest.raises(DocumentRejected) as rejected:
        prepare(0, document, staff(), sealer())
    assert rejected.value.reason == "FIELD_MISSING"


def test_a_moment_is_sealed_to_the_microsecond() -> None:
    """As it is stored in the open."""
    value = Value()
    value.timestamp.FromDatetime(datetime(2026, 3, 1, 12, 0, 0, 250_001, tzinfo=UTC))
    assert sealer().open(HERE, sealer().seal(HERE, value)).timestamp.ToDatetime(UTC).microsecond == 250_001
