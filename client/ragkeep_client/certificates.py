"""The certificates of a local installation: an authority of its own, a leaf for each service, for the command, for HTTPS."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ragkeep_client.folder import write_together
from ragkeep_client.output import CommandError

TRUST_DOMAIN = "ragkeep.internal"
SERVICES = ("embedder", "retriever", "generator", "gateway")
CLI, CLI_FILE = "caller/local/cli", "cli"
# What people's programs see: it names localhost and no service, so it is nobody among them.
HTTPS_FILE = "https"
LEAVES = (*SERVICES, CLI_FILE, HTTPS_FILE)
_CA_DAYS, _LEAF_DAYS = 3650, 365
# A leaf with less than this left is made anew, before its process would warn of it; an authority, with less than a leaf's life.
_RENEW_DAYS = 40
# Clocks of two processes on one machine do not differ, but a clock that was an hour or two ahead is set right.
_BACKDATED = dt.timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate as it lies there."""

    name: str  # "ca", a service, "cli" or "https"; of what was issued, caller/<namespace>/<name>
    uri: str  # its SPIFFE id; empty for the authority and for HTTPS
    dns: tuple[str, ...]
    valid_from: dt.datetime
    valid_until: dt.datetime
    issuer: str
    serial: int
    fault: str  # why it cannot be used now; empty: it can


class Certificates:
    """A folder of PEM files: ca.crt, ca.key, and <name>.crt, <name>.key for each service, the command and HTTPS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"

    def files(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) of a service or of the command."""
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def ensure(self, now: dt.datetime | None = None) -> list[str]:
        """Makes what is missing, broken or about to expire; returns the names of those made. Raises OSError."""
        now = now or dt.datetime.now(dt.UTC)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        made = []
        authority = self._authority(now)
        if authority is None:
            authority = self._make_authority(now)
            made.append("ca")
        for name in LEAVES:
            if not self._is_good(name, authority[0], now):
                self._make_leaf(name, authority, now)
                made.append(name)
        return made

    def renew_due(self, now: dt.datetime | None = None) -> list[str]:
        """Makes leaves anew that are about to expire, by the authority that is there; the names. Raises OSError."""
        now = now or dt.datetime.now(dt.UTC)
        authority = self._authority(now)
        if authority is None:
            return []  # all would have to change at once: that is for the next start
        due = [name for name in LEAVES if not self._is_good(name, authority[0], now)]
        for name in due:
            self._make_leaf(name, authority, now)
        return due

    def renew(self, now: dt.datetime | None = None) -> list[str]:
        """Makes every leaf anew, by the authority that is there; the names. Raises OSError or CommandError."""
        now = now or dt.datetime.now(dt.UTC)
        authority = self._authority(now)
        if authority is None:
            raise CommandError(
                "DATA_FOLDER_UNUSABLE",
                f"There is no usable authority in {self.folder} (missing, or near its end): `ragkeep down`, then "
                "`ragkeep up` makes a new one with all its certificates.",
            )
        for name in LEAVES:
            self._make_leaf(name, authority, now)
        return list(LEAVES)

    def check_room(self, caller: str, folder: Path) -> None:
        """Raises CommandError where `issue` would write over another's key."""
        cert_file, key_file = folder / "tls.crt", folder / "tls.key"
        if (cert_file.exists() or key_file.exists()) and uri_in(cert_file) != f"spiffe://{TRUST_DOMAIN}/{caller}":
            raise CommandError(
                "FILE_EXISTS", f"In {folder} lies a key that is not {caller}'s. Choose another folder with --out DIR."
            )

    def issue(self, caller: str, folder: Path, now: dt.datetime | None = None) -> Shown:
        """A certificate for another process, `caller/<namespace>/<name>`, as tls.crt, tls.key and ca.crt in `folder`.

        It is nobody's server. Raises OSError, or CommandError where there is no authority or `check_room` does.
        """
        self.check_room(caller, folder)
        now = now or dt.datetime.now(dt.UTC)
        authority = self._authority(now)
        if authority is None:
            raise CommandError(
                "DATA_FOLDER_UNUSABLE",
                f"There is no usable authority in {self.folder} (missing, or near its end): `ragkeep up`.",
            )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{caller}")]
        key, certificate = _leaf(names, [ExtendedKeyUsageOID.CLIENT_AUTH], authority, now)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        files = {folder / "tls.key": _pem(key), folder / "tls.crt": pem, folder / "ca.crt": self.ca.read_bytes()}
        write_together(files)
        return _shown(caller, certificate, authority[0], now)

    def show(self, now: dt.datetime | None = None) -> list[Shown]:
        """Every certificate, the authority first. Raises OSError where one cannot be read, ValueError where it is none."""
        now = now or dt.datetime.now(dt.UTC)
        authority = x509.load_pem_x509_certificate(self.ca.read_bytes())
        shown = [_shown("ca", authority, authority, now)]
        for name in LEAVES:
            certificate = x509.load_pem_x509_certificate(self.files(name)[0].read_bytes())
            shown.append(_shown(name, certificate, authority, now))
        return shown

    def issued(self, folder: Path, now: dt.datetime | None = None) -> list[Shown]:
        """What `issue` made in the folders below this one. Raises as `show` does."""
        now = now or dt.datetime.now(dt.UTC)
        authority = x509.load_pem_x509_certificate(self.ca.read_bytes())
        shown = []
        for path in sorted(folder.glob("*/tls.crt")):
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            name = uri_in(path).removeprefix(f"spiffe://{TRUST_DOMAIN}/") or path.parent.name
            shown.append(_shown(name, certificate, authority, now))
        return shown

    def _authority(self, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
        try:
            certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
            key = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        except (OSError, ValueError, TypeError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            return None
        if certificate.not_valid_after_utc - now < dt.timedelta(days=_LEAF_DAYS) or certificate.not_valid_before_utc > now:
            return None
        return certificate, key

    def _make_authority(self, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        # An issuer must have a name, and the same one twice with another key would confuse: the number tells them apart.
        number = x509.random_serial_number()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ragkeep local authority {number % 0xFFFFFFFF:08x}")])
        certificate = (
            _builder(key, now, _CA_DAYS, number)
            .subject_name(name)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        self._write("ca", key, certificate)
        return certificate, key

    def _make_leaf(self, name: str, authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], now: dt.datetime) -> None:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if name != HTTPS_FILE else [])]
        self._write(name, *_leaf(_names(name), usages, authority, now))

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        cert_file, key_file = self.files(name)
        # One without the other could not be used.
        write_together({key_file: _pem(key), cert_file: certificate.public_bytes(serialization.Encoding.PEM)})

    def _is_good(self, name: str, issuer: x509.Certificate, now: dt.datetime) -> bool:
        cert_file, key_file = self.files(name)
        try:
            certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            certificate.verify_directly_issued_by(issuer)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except Exception:  # whatever is wrong with it, a new one is right
            return False
        left = certificate.not_valid_after_utc - now
        return (
            key.public_key() == certificate.public_key()
            and list(names) == _names(name)
            and left > dt.timedelta(days=_RENEW_DAYS)
            and certificate.not_valid_before_utc <= now
        )


def _leaf(
    names: list[x509.GeneralName],
    usages: list[x509.ObjectIdentifier],
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    now: dt.datetime,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    certificate = (
        _builder(key, now, _LEAF_DAYS, x509.random_serial_number())
        # Empty: where there is a name, core would take it for the peer's in some places.
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    return key, certificate


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _shown(name: str, certificate: x509.Certificate, authority: x509.Certificate, now: dt.datetime) -> Shown:
    uris: list[str] = []
    dns: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        dns = names.get_values_for_type(x509.DNSName)
    begin, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    fault = ""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # whatever the library calls it
        fault = "it is of another authority"
    if now > until:
        fault = "it has expired"
    elif now < begin:
        fault = "it is not valid yet: was the clock set back?"
    return Shown(name, " ".join(uris), tuple(dns), begin, until, _issuer(certificate), certificate.serial_number, fault)


def way_out(one: Shown) -> str:
    """What makes it anew."""
    if one.name == "ca":
        return "`ragkeep down`, then `ragkeep up`"
    issued = one.name.startswith("caller/")
    return f"`ragkeep certs issue {one.name.removeprefix('caller/')}`" if issued else "`ragkeep certs renew`"


def uri_in(path: Path) -> str:
    """The SPIFFE id of a PEM file's certificate; empty where there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return ""
    return " ".join(names.get_values_for_type(x509.UniformResourceIdentifier))


def _issuer(certificate: x509.Certificate) -> str:
    names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.issuer.rfc4514_string()


def _names(name: str) -> list[x509.GeneralName]:
    localhost = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    if name == HTTPS_FILE:
        return [*localhost, x509.IPAddress(ipaddress.IPv6Address("::1"))]
    path = CLI if name == CLI_FILE else name
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{path}")]
    if name in SERVICES:
        names.append(x509.DNSName(f"{name}.{TRUST_DOMAIN}"))
    if name == "gateway":
        # The only one: with it in each, one service would pass for another.
        names += localhost
    return names


def _builder(key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int, number: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
