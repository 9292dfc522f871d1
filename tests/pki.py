"""A certificate authority for tests: makes right certificates, and every wrong one that a test wants to show."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ragkeep_runtime.tls import Identity


class Authority:
    """A CA with its files in a folder."""

    def __init__(self, folder: Path, *, days: float = 1) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        # Two authorities with one name could not be told apart in a bundle.
        name = f"test authority {x509.random_serial_number():x}"[:64]
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def service(self, name: str) -> Identity:
        """As a service of ragkeep has it."""
        return self.issue(name, uris=[f"spiffe://ragkeep.internal/{name}"], dns=[f"{name}.ragkeep.internal"])

    def caller(self, name: str) -> Identity:
        """As a caller has it; `name` is `caller/<namespace>/<name>`."""
        return self.issue(name.replace("/", "-"), uris=[f"spiffe://ragkeep.internal/{name}"])

    def renew(self, name: str, identity: Identity) -> None:
        """A new certificate and key of a service or caller where `identity` has them: one file, then the other."""
        uris = [f"spiffe://ragkeep.internal/{name}"]
        dns = [] if name.startswith("caller/") else [f"{name}.ragkeep.internal"]
        renewed = self.issue("renewed", uris=uris, dns=dns)
        renewed.key.replace(identity.key)
        renewed.cert.replace(identity.cert)

    def issue(
        self,
        file: str,
        *,
        uris: Sequence[str] = (),
        dns: Sequence[str] = (),
        common_name: str = "",
        days: float = 1,
        age_days: float = 2,
    ) -> Identity:
        """Any certificate, valid since `age_days` and for `days` to come."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        names = [*(x509.DNSName(name) for name in dns), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=age_days))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_name)
        cert_file, key_file = self.folder / f"{file}.crt", self.folder / f"{file}.key"
        cert_file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        key_file.chmod(0o600)
        return Identity(cert_file, key_file, self.ca)
