"""Tokens: who they speak of, and every way in which they are refused."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep_gateway.people import Claims, Key, People, keys_of, secret_of
from ragkeep_runtime.access import Person
from ragkeep_runtime.errors import TokenExpired, TokenInvalid
from tests.counted import COUNTED
from tests.tokens import AUDIENCE, ISSUER, Issuer

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
ISSUERS = {algorithm: Issuer(algorithm) for algorithm in ALGORITHMS}
TOKENS = {algorithm: issuer.token(exp=int(time.time()) + 3600) for algorithm, issuer in ISSUERS.items()}


def _keys(issuer: Issuer) -> list[Key]:
    return (
        secret_of(issuer.key.encode())
        if issuer.algorithm == "HS256"
        else keys_of(json.dumps({"keys": [issuer.jwk()]}).encode())
    )


def _people(issuer: Issuer, **more: Any) -> People:
    keys = _keys(issuer)
    return People(lambda: keys, issuer=ISSUER, audience=AUDIENCE, **more)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_right_token_says_who_asks(algorithm: str) -> None:
    """Whichever way the site signs."""
    token = ISSUERS[algorithm].token(roles=["reader", "unsealer", "king"], groups=["icu", "*"])
    person = _people(ISSUERS[algorithm]).verify(token)
    assert person == Person("li.wei", "demo", frozenset({"reader", "unsealer"}), frozenset({"icu"}))


def test_claims_are_found_where_the_identity_provider_puts_them() -> None:
    """By a name with dots in it, by a path, as a list or as words; roles of other systems are passed over."""
    claims = Claims("preferred_username", "https://x.example/tenant", "realm_access.roles", "grp", role_prefix="ragkeep-")
    token = ISSUERS["ES256"].token(
        preferred_username="王芳",
        realm_access={"roles": ["ragkeep-reader", "editor", "offline_access"]},
        grp="icu er",
        **{"https://x.example/tenant": "klinik"},
    )
    person = _people(ISSUERS["ES256"], claims=claims).verify(token)
    assert person == Person("王芳", "klinik", frozenset({"reader"}), frozenset({"icu", "er"}))


NOW = int(time.time())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("claims", "error", "words"),
    [
        ({"exp": NOW - 60}, TokenExpired, "expired"),
        ({"nbf": NOW + 86_000}, TokenExpired, "not valid yet"),
        ({"exp": None}, TokenInvalid, "lacks the claim exp"),
        ({"aud": "payroll"}, TokenInvalid, "audience"),
        ({"aud": None}, TokenInvalid, "lacks the claim aud"),
        ({"iss": "https://evil.example"}, TokenInvalid, "issuer"),
        ({"iss": None}, TokenInvalid, "lacks the claim iss"),
        ({"sub": None}, TokenInvalid, "claim sub"),
        ({"jti": "x" * 257}, TokenInvalid, "claim jti"),
        ({"jti": "a\nb"}, TokenInvalid, "claim jti"),
        ({"tenant": None}, TokenInvalid, "claim tenant"),
        ({"tenant": "*"}, TokenInvalid, "claim tenant"),
        ({"tenant": ["a", "b"]}, TokenInvalid, "claim tenant"),
        ({"tenant": "x" * 129}, TokenInvalid, "claim tenant"),
        ({"roles": {"reader": True}}, TokenInvalid, "claim roles"),
        ({"groups": [str(number) for number in range(257)]}, TokenInvalid, "claim groups"),
    ],
)
def test_a_wrong_claim_is_refused_by_name(
    algorithm: str, claims: dict[str, Any], error: type[TokenInvalid], words: str
) -> None:
    """So that whoever set the identity provider up sees what to change."""
    with pytest.raises(error, match=words) as refused:
        _people(ISSUERS[algorithm], leeway_s=30).verify(ISSUERS[algorithm].token(**claims))
    assert refused.value.reason == error.reason


def test_the_leeway_is_for_clocks() -> None:
    """A token that ended ten seconds ago is taken with thirty, and not with none."""
    token = ISSUERS["ES256"].token(exp=int(time.time()) - 10)
    assert _people(ISSUERS["ES256"], leeway_s=30).verify(token)
    with pytest.raises(TokenExpired):
        _people(ISSUERS["ES256"], leeway_s=0).verify(token)


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unsigned_and_tampered_tokens_are_refused(algorithm: str) -> None:
    """`none` in every spelling, another payload under the signature, each part cut, another key of the same kind."""
    people, token = _people(ISSUERS[algorithm]), ISSUERS[algorithm].token()
    head, body, signature = token.split(".")
    king = jwt.decode(token, options={"verify_signature": False}) | {"roles": ["admin"], "tenant": "other"}
    wrong = [
        f"{_part({'alg': none, 'typ': 'JWT'})}.{body}.{end}"
        for none in ("none", "None", "NONE", "nOnE", "")
        for end in ("", signature)
    ]
    wrong += [
        f"{head}.{_part(king)}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{body}.{signature}",
        f".{body}.{signature}",
    ]
    wrong += [f"{head}.{body}.{signature[:-4]}AAAA", token + "A", "", ".", "..", "...", "x" * 20_000, token.replace(".", " ")]
    other = Issuer(algorithm, kid="k1") if algorithm != "HS256" else Issuer("HS256", kid="another")
    wrong += [other.token(), Issuer(algorithm, kid="k2").token()]
    for one in wrong:
        with pytest.raises(TokenInvalid):
            people.verify(one)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_no_secret(algorithm: str) -> None:
    """Key confusion: signed with HS256 under the public key's own bytes, in each form in which they are known."""
    issuer = ISSUERS[algorithm]
    public = issuer.key.public_key()
    forms = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        json.dumps(issuer.jwk()).encode(),
    ]
    body = issuer.token().split(".")[1]
    signer = jwt.get_algorithm_by_name("HS256")
    for form in forms:
        head = _part({"alg": "HS256", "typ": "JWT", "kid": issuer.kid})
        signature = base64.urlsafe_b64encode(signer.sign(f"{head}.{body}".encode(), form)).rstrip(b"=").decode()
        with pytest.raises(TokenInvalid, match="does not know"):
            _people(issuer).verify(f"{head}.{body}.{signature}")


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"alg": "HS512"},
        {"kid": "../../etc/passwd"},
        {"kid": 7},
        {"kid": ["k1"]},
    ],
)
def test_a_header_decides_nothing(header: dict[str, Any]) -> None:
    """Nor does it point to a key of its own."""
    issuer = ISSUERS["ES256"]
    body = issuer.token().split(".")[1]
    head = _part({"alg": "ES256", "typ": "JWT", "kid": "k1", **header})
    signer = jwt.get_algorithm_by_name("ES256")
    signature = base64.urlsafe_b64encode(signer.sign(f"{head}.{body}".encode(), issuer.key)).rstrip(b"=").decode()
    with pytest.raises(TokenInvalid):
        _people(issuer).verify(f"{head}.{body}.{signature}")


def test_a_key_of_its_own_is_not_looked_at() -> None:
    """`jwk`, `jku` and `x5u` in a header lead nowhere: what counts is the file."""
    stranger = Issuer("ES256")
    for header in ({"jwk": stranger.jwk()}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/x"}):
        with pytest.raises(TokenInvalid):
            _people(ISSUERS["ES256"]).verify(stranger.token(headers=header))


def test_keys_are_told_apart_by_their_id() -> None:
    """Two of a kind while they are exchanged; a token without `kid` is then nobody's."""
    old, new = Issuer("ES256", "old"), Issuer("ES256", "new")
    keys = keys_of(json.dumps({"keys": [old.jwk(), new.jwk()]}).encode())
    people = People(lambda: keys, issuer=ISSUER, audience=AUDIENCE)
    assert people.verify(old.token()).subject == people.verify(new.token()).subject
    with pytest.raises(TokenInvalid):
        people.verify(new.token(headers={"kid": None}))


def _jwk(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    return {**json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key)), **more}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([], "no RSA"),
        ([{"kty": "oct", "k": "c2VjcmV0"}], "secret or private"),
        ([_jwk(ISSUERS["RS256"].key, "RS256")], "secret or private"),
        ([_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key(), "RS256")], "1024 bits"),
        ([_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), "ES384")], "no RSA"),
        ([ISSUERS["ES256"].jwk() | {"use": "enc"}], "no RSA"),
        ([ISSUERS["ES256"].jwk() | {"alg": "HS256"}], "no RSA"),
        ([ISSUERS["ES256"].jwk(), ISSUERS["ES256"].jwk()], "same kid"),
        ([{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}], "not a JWKS"),
        ([7], "not a JWKS"),
    ],
)
def test_a_wrong_key_file_is_refused(keys: list[Any], words: str) -> None:
    """What signs does not belong there; what is weak or for something else is not taken."""
    with pytest.raises(ValueError, match=words):
        keys_of(json.dumps({"keys": keys}).encode())


def test_a_short_secret_is_refused() -> None:
    """It could be guessed from one token; the message does not hold it."""
    with pytest.raises(ValueError, match="at least 32") as refused:
        secret_of(b"hunter2\n")
    assert "hunter2" not in str(refused.value)


@given(st.text(max_size=300) | st.lists(st.text(alphabet="eyJhbGciOi.-_0123", max_size=40), max_size=4).map(".".join))
@settings(max_examples=500, deadline=None)
def test_no_text_is_more_than_an_invalid_token(text: str) -> None:
    """Fuzzed: nothing gets in, nothing else is raised."""
    COUNTED["fuzz: tokens"] += 1
    with pytest.raises(TokenInvalid):
        _people(ISSUERS["ES256"]).verify(text)


@given(
    st.sampled_from(ALGORITHMS),
    st.lists(st.tuples(st.integers(0, 2000), st.sampled_from("AZaz09-_.= \n\x00é"), st.booleans()), min_size=1, max_size=3),
)
@settings(max_examples=600, deadline=None)
def test_no_damage_makes_another_person(algorithm: str, damage: list[tuple[int, str, bool]]) -> None:
    """A right token with a few characters replaced or put in: refused, or (where only unused bits of the coding changed) the same."""
    found = list(TOKENS[algorithm])
    for at, character, replaced in damage:
        at %= len(found)
        found[at : at + replaced] = [character]
    COUNTED["fuzz: tokens"] += 1
    people = _people(ISSUERS[algorithm])
    with contextlib.suppress(TokenInvalid):
        assert people.verify("".join(found)) == people.verify(TOKENS[algorithm])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["sub", "tenant", "roles", "groups", "exp", "nbf", "iat", "aud", "iss", "jti"]), _JSON)
@settings(max_examples=500, deadline=None)
def test_no_signed_claim_breaks_the_reader(name: str, value: object) -> None:
    """An identity provider may write anything: a person in the end, or an invalid token."""
    issuer = ISSUERS["HS256"]
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "tenant": "t", "exp": now + 60, name: value}
    head, body = _part({"alg": "HS256", "typ": "JWT", "kid": "k1"}), _part(claims)
    signature = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), issuer.key.encode())
    COUNTED["fuzz: tokens"] += 1
    with contextlib.suppress(TokenInvalid):
        token = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        assert _people(issuer).verify(token).tenant


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5c", "zip", "enc", "cty"]), _JSON))
@settings(max_examples=200, deadline=None)
def test_no_signed_header_breaks_the_reader(header: dict[str, object]) -> None:
    """Signed with the right secret, whatever it says of itself: taken where it says HS256, in the right key's name, else refused."""
    issuer = ISSUERS["HS256"]
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "tenant": "t", "exp": int(time.time()) + 60}
    head, body = _part({"alg": "HS256", **header}), _part(claims)
    signature = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), issuer.key.encode())
    COUNTED["fuzz: tokens"] += 1
    with contextlib.suppress(TokenInvalid):
        token = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        assert _people(issuer).verify(token).subject == "a"
        assert header.get("alg", "HS256") == "HS256"
        assert "crit" not in header


@given(st.binary(max_size=300) | _JSON.map(lambda found: json.dumps({"keys": [found]}).encode()))
@settings(max_examples=300, deadline=None)
def test_no_key_file_breaks_the_reader(content: bytes) -> None:
    """Keys or a ValueError."""
    COUNTED["fuzz: key files"] += 1
    with contextlib.suppress(ValueError):
        assert keys_of(content)
