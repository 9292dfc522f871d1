"""Who a process is on the wire, and the credentials made of it. There is no way to switch verification off."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.metrics import connection_began, file_not_taken_over


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM files: certificate, its key, and the authorities that peers' certificates must come from."""

    cert: Path
    key: Path
    ca: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """(key, certificate, authorities). Raises OSError or ssl.SSLError where they are missing, torn or do not match."""
        before = self.stamp()
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        check.load_cert_chain(self.cert, self.key)
        check.load_verify_locations(self.ca)
        found = self.key.read_bytes(), self.cert.read_bytes(), self.ca.read_bytes()
        if self.stamp() != before:
            raise OSError("the certificate files changed while they were read")
        return found

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Changes when one of the files does."""
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in (path.stat() for path in (self.cert, self.key, self.ca)))


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate and follow the files when they change."""
    key, cert, ca = identity.read()
    seen = [identity.stamp()]

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # Runs on core's threads at each new connection: quick, and never an exception. None keeps what is in force.
        connection_began("grpc")
        try:
            stamp = identity.stamp()
            if stamp == seen[0]:
                return None
            new_key, new_cert, new_ca = identity.read()
        except (OSError, ssl.SSLError) as error:
            get_logger().warning("tls_files_not_taken_over", error=type(error).__name__)
            file_not_taken_over("certificate")
            return None
        seen[0] = stamp
        return grpc.ssl_server_certificate_configuration([(new_key, new_cert)], new_ca)

    initial = grpc.ssl_server_certificate_configuration([(key, cert)], ca)
    return grpc.dynamic_ssl_server_credentials(initial, fetch, require_client_authentication=True)  # type: ignore[arg-type]  # None is documented


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """Credentials that show the identity and accept servers of the same authorities only."""
    key, cert, ca = identity.read()
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)
