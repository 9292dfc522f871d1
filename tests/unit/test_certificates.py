"""The certificates that `ragkeep up` makes, seen by a real TLS handshake."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from ragkeep_client.certificates import CLI_FILE, HTTPS_FILE, LEAVES, SERVICES, Certificates
from ragkeep_client.output import CommandError

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path / "certificates")
    assert made.ensure() == ["ca", *LEAVES]
    return made


def leaf(certificates: Certificates, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificates.files(name)[0].read_bytes())


def handshake(certificates: Certificates, server: str, asked: str, client: str | None = CLI_FILE) -> str:
    """The TLS version that was agreed on; raises ssl.SSLError where one side refuses."""
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(*certificates.files(server))
    listening.load_verify_locations(certificates.ca)
    listening.verify_mode = ssl.CERT_REQUIRED
    dialling = ssl.create_default_context(cafile=certificates.ca)
    dialling.verify_flags |= ssl.VERIFY_X509_STRICT
    if client is not None:
        dialling.load_cert_chain(*certificates.files(client))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = dialling.wrap_bio(to_client, to_server, server_hostname=asked)
    other = listening.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    one.write(b"x")
    assert other.read(1) == b"x"
    return one.version() or ""


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_accepted_under_its_own_name(certificates: Certificates, service: str) -> None:
    """Strict verification, TLS 1.3, both sides with a certificate."""
    assert handshake(certificates, service, f"{service}.ragkeep.internal") == "TLSv1.3"


def test_one_service_does_not_pass_for_another(certificates: Certificates) -> None:
    """The embedder's certificate is refused where the retriever is expected, and on localhost."""
    for asked in ("retriever.ragkeep.internal", "localhost", "127.0.0.1"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(certificates, "embedder", asked)


def test_only_the_gateway_is_localhost(certificates: Certificates) -> None:
    """Callers on this machine may dial it by any of its names."""
    for asked in ("gateway.ragkeep.internal", "localhost", "127.0.0.1"):
        assert handshake(certificates, "gateway", asked) == "TLSv1.3"


def test_nobody_comes_in_without_a_certificate(certificates: Certificates) -> None:
    """The server ends the handshake."""
    with pytest.raises(ssl.SSLError):
        handshake(certificates, "gateway", "localhost", client=None)


@pytest.mark.parametrize("name", [*SERVICES, CLI_FILE])
def test_a_leaf_has_an_empty_subject_and_exactly_one_uri(certificates: Certificates, name: str) -> None:
    """The URI is the identity; the command has no DNS name at all."""
    certificate = leaf(certificates, name)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    path = "caller/local/cli" if name == CLI_FILE else name
    assert not list(certificate.subject)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://ragkeep.internal/{path}"]
    expected = [] if name == CLI_FILE else [f"{name}.ragkeep.internal", *(["localhost"] if name == "gateway" else [])]
    assert names.get_values_for_type(x509.DNSName) == expected


def test_keys_are_the_owners_alone(certificates: Certificates) -> None:
    """The folder is 0700, every file in it 0600."""
    assert certificates.folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in certificates.folder.iterdir()} == {0o600}


def test_good_certificates_are_left_alone(certificates: Certificates) -> None:
    """A second start makes nothing."""
    assert certificates.ensure() == []


def test_leaves_that_expire_soon_are_made_anew_by_the_same_authority(certificates: Certificates) -> None:
    """Clients that trust the authority need nothing new."""
    before = certificates.ca.read_bytes()
    assert certificates.ensure(NOW + dt.timedelta(days=340)) == [*LEAVES]
    assert certificates.ca.read_bytes() == before


def test_an_authority_near_its_end_is_replaced_with_all_its_leaves(certificates: Certificates) -> None:
    """No leaf may outlive it."""
    assert certificates.ensure(NOW + dt.timedelta(days=3400)) == ["ca", *LEAVES]


def test_a_torn_or_foreign_leaf_is_made_anew(certificates: Certificates) -> None:
    """A file cut in half, another service's key, a file that is gone: each heals at the next start."""
    certificates.files("embedder")[0].write_text("-----BEGIN")
    certificates.files("retriever")[1].write_bytes(certificates.files("generator")[1].read_bytes())
    certificates.files("gateway")[1].unlink()
    assert certificates.ensure() == ["embedder", "retriever", "gateway"]
    assert handshake(certificates, "gateway", "localhost") == "TLSv1.3"


def test_certificates_are_shown_with_who_until_when_and_of_whom(certificates: Certificates) -> None:
    """The authority first; nothing is wrong with new ones."""
    shown = certificates.show()
    assert [one.name for one in shown] == ["ca", *LEAVES]
    by_name = {one.name: one for one in shown}
    assert by_name["gateway"].uri == "spiffe://ragkeep.internal/gateway"
    assert by_name["gateway"].dns == ("gateway.ragkeep.internal", "localhost")
    assert by_name["embedder"].issuer == by_name["ca"].issuer
    assert {one.fault for one in shown} == {""}


@pytest.mark.parametrize(("hours", "words"), [(-4, "not valid yet"), (24 * 366, "expired")])
def test_a_clock_that_is_far_off_is_named(certificates: Certificates, hours: int, words: str) -> None:
    """A handshake alone would not say why it failed."""
    shown = certificates.show(NOW + dt.timedelta(hours=hours))
    assert all(words in one.fault for one in shown if one.name != "ca")


def test_a_leaf_of_another_authority_is_named(certificates: Certificates, tmp_path: Path) -> None:
    """As when files of two folders were mixed."""
    other = Certificates(tmp_path / "other")
    other.ensure()
    certificates.files("embedder")[0].write_bytes(other.files("embedder")[0].read_bytes())
    faults = {one.name: one.fault for one in certificates.show() if one.fault}
    assert faults == {"embedder": "it is of another authority"}


def test_a_clock_that_was_an_hour_ahead_and_is_set_right_does_no_harm(tmp_path: Path) -> None:
    """Certificates are valid from three hours before they were made."""
    made = Certificates(tmp_path / "ahead")
    made.ensure(NOW + dt.timedelta(hours=1))
    assert handshake(made, "gateway", "localhost") == "TLSv1.3"
    assert made.ensure(NOW) == []


def test_a_clock_that_was_a_day_ahead_costs_new_certificates_at_the_next_start(tmp_path: Path) -> None:
    """The authority's own is not valid yet either, so all are new."""
    made = Certificates(tmp_path / "ahead")
    made.ensure(NOW + dt.timedelta(days=1))
    assert made.ensure(NOW) == ["ca", *LEAVES]
    assert handshake(made, "gateway", "localhost") == "TLSv1.3"


def test_renewed_leaves_are_new_and_of_the_same_authority(certificates: Certificates) -> None:
    """What trusts the authority needs nothing new."""
    before = {one.name: one.serial for one in certificates.show()}
    assert certificates.renew() == [*LEAVES]
    after = {one.name: one.serial for one in certificates.show()}
    assert after["ca"] == before["ca"]
    assert all(after[name] != before[name] for name in LEAVES)
    assert handshake(certificates, "gateway", "localhost") == "TLSv1.3"


def test_while_all_runs_only_leaves_near_their_end_are_made_anew(certificates: Certificates) -> None:
    """The authority stays: to change it needs a start."""
    assert certificates.renew_due() == []
    assert certificates.renew_due(NOW + dt.timedelta(days=340)) == [*LEAVES]
    assert certificates.renew_due(NOW + dt.timedelta(days=3400)) == []


def test_without_an_authority_nothing_is_renewed(certificates: Certificates) -> None:
    """The way out is told."""
    certificates.ca.unlink()
    with pytest.raises(CommandError, match="ragkeep up"):
        certificates.renew()


def test_what_https_shows_is_nobody_among_services(certificates: Certificates) -> None:
    """It names localhost and no service; no service takes it for a caller's, and nobody takes it for a service."""
    certificate = leaf(certificates, HTTPS_FILE)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == []
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert {str(one) for one in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
    assert handshake(certificates, HTTPS_FILE, "localhost") == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        handshake(certificates, "gateway", "gateway.ragkeep.internal", HTTPS_FILE)
    with pytest.raises(ssl.SSLError):
        handshake(certificates, HTTPS_FILE, "gateway.ragkeep.internal")
