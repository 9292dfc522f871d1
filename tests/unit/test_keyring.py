"""The keyring's file: what is made is read again, what is broken is refused, and no secret is ever said."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep_runtime.keyring import KEY_BYTES, Keyring, dump_keyring, new_key_id, new_keyring, parse_keyring


def secret(number: int) -> str:
    """32 bytes in base64."""
    return base64.b64encode(bytes([number]) * KEY_BYTES).decode()


def whole(**changed: object) -> dict[str, object]:
    """What a file holds."""
    return {"active": "a", "keys": {"a": secret(1), "b": secret(2)}, "fingerprint": secret(3), **changed}


def test_what_is_made_is_read_again() -> None:
    """With further keys, another active one, and without one; the fingerprint secret stays."""
    first = new_keyring(new_key_id())
    more = first.with_key("second", active=True).with_key("third", active=False)
    assert (more.active, set(more.keys)) == ("second", {first.active, "second", "third"})
    for one in (first, more, more.activated("third"), more.without(first.active)):
        assert parse_keyring(dump_keyring(one)) == one
        assert one.fingerprint == first.fingerprint
    assert len({*more.keys.values(), more.fingerprint}) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k: k.with_key("a", active=True), "already"),
        (lambda k: k.with_key("A", active=True), "id has"),
        (lambda k: k.with_key("", active=False), "id has"),
        (lambda k: k.activated("z"), "there are: a, b"),
        (lambda k: k.without("a"), "active"),
        (lambda k: k.without("z"), "no key"),
    ],
)
def test_a_change_that_would_break_it_is_refused(change: object, words: str) -> None:
    """The active key stays, ids are unique."""
    with pytest.raises(ValueError, match=words):
        change(parse_keyring(json.dumps(whole()).encode()))  # type: ignore[operator]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b" " * (256 * 1024 + 1),
        json.dumps(whole(active="z")),
        json.dumps(whole(active=None)),
        json.dumps(whole(more=1)),
        json.dumps(whole(keys={})),
        json.dumps(whole(keys=[secret(1)])),
        json.dumps(whole(keys={"a": secret(1)[:-4]})),
        json.dumps(whole(keys={"a": secret(1) + "\n"})),
        json.dumps(whole(keys={"a": 5})),
        json.dumps(whole(keys={"a": secret(3)})),
        json.dumps(whole(keys={"a": secret(1), "A": secret(2)})),
        json.dumps(whole(keys={"a": secret(1), "b": secret(1)})),
        json.dumps(whole(fingerprint="")),
        json.dumps(whole()).replace('"b"', '"a"'),
    ],
)
def test_a_broken_file_is_refused_without_a_secret_in_the_words(content: bytes | str) -> None:
    """They go into logs."""
    raw = content.encode() if isinstance(content, str) else content
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - whatever it says must not hold a secret
        parse_keyring(raw)
    said = repr(refused.value)
    assert not any(secret(number)[:20] in said for number in (1, 2, 3))
    assert refused.value.__cause__ is None


def test_a_keyring_does_not_show_its_secrets() -> None:
    """Where one is printed by mistake."""
    keyring = new_keyring("a")
    shown = repr(keyring) + str(keyring)
    assert "active='a'" in shown
    for one in (*keyring.keys.values(), keyring.fingerprint):
        assert repr(one) not in shown
        assert one.hex() not in shown


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["active", "keys", "fingerprint", "a", "b"]), inner),
    )
)
def test_whatever_the_file_holds_it_is_a_keyring_or_a_value_error(content: object) -> None:
    """Nothing else comes out, so a process never ends by it."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        found = parse_keyring(raw)
    except ValueError:
        return
    assert isinstance(found, Keyring)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_character_is_noticed_or_harmless(data: st.DataObject) -> None:
    """A file that was damaged by a byte is refused, or is a keyring whose active key is one of its keys."""
    raw = bytearray(json.dumps(whole()).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_keyring(bytes(raw))
    except ValueError:
        return
    assert found.active in found.keys
    assert all(len(one) == KEY_BYTES for one in (*found.keys.values(), found.fingerprint))
