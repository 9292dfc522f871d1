"""The command's own connection: to the gateway of a data folder, or to one that the environment names (RAGKEEP_GATEWAY)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ragkeep_client.certificates import CLI_FILE, Certificates
from ragkeep_client.client import Client, IdentityUnusable
from ragkeep_client.folder import DataFolder
from ragkeep_client.output import CommandError
from ragkeep_runtime.errors import NotReady
from ragkeep_runtime.tls import Identity


class Remote(BaseSettings):
    """A gateway elsewhere, and who the command is there. Read where RAGKEEP_GATEWAY is set, instead of the data folder."""

    model_config = SettingsConfigDict(env_prefix="RAGKEEP_", extra="ignore", frozen=True)

    gateway: str = Field(min_length=1, description="Where the gateway is: host:port, or dns:///host:port for all its replicas.")
    tls_cert: Path = Field(description="PEM file of the caller's certificate.")
    tls_key: Path = Field(description="PEM file of its private key.")
    tls_ca: Path = Field(description="PEM file of the authorities that the gateway's certificate must come from.")
    trust_domain: str = Field("ragkeep.internal", description="Trust domain of the installation.")


@asynccontextmanager
async def connected(data: Path, tenant: str) -> AsyncGenerator[Client]:
    """A client for the tenant. Raises CommandError where nothing was started, or a certificate cannot be used."""
    remote = _remote()
    if remote is not None:
        target, identity, trust_domain = (
            remote.gateway,
            Identity(remote.tls_cert, remote.tls_key, remote.tls_ca),
            remote.trust_domain,
        )
        way_out = "RAGKEEP_TLS_CERT, RAGKEEP_TLS_KEY and RAGKEEP_TLS_CA name them."
    else:
        folder = DataFolder(data)
        certificates = Certificates(folder.certificates)
        target = folder.gateway()
        identity, trust_domain = Identity(*certificates.files(CLI_FILE), certificates.ca), "ragkeep.internal"
        way_out = "`ragkeep up` makes them."
    try:
        client = Client(target, identity, tenant=tenant, trust_domain=trust_domain)
    except IdentityUnusable as error:
        code = "DATA_FOLDER_UNUSABLE" if remote is None else "CERTIFICATE_UNUSABLE"
        raise CommandError(
            code, f"The certificates in {identity.cert.parent} cannot be used: {error.__cause__}. {way_out}"
        ) from None
    try:
        async with client:
            yield client
    except NotReady as error:
        if remote is None and error.metadata.get("unreachable") == "TLS":
            # A handshake does not say why it failed; the certificates may.
            _check(Certificates(DataFolder(data).certificates))
        raise


def _remote() -> Remote | None:
    if not os.environ.get("RAGKEEP_GATEWAY"):
        return None
    try:
        return Remote()  # type: ignore[call-arg]  # the environment is the only source
    except ValidationError as error:
        wrong = "; ".join(f"RAGKEEP_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        raise CommandError("SETTINGS_WRONG", f"RAGKEEP_GATEWAY is set, so these are needed too. {wrong}") from None


def _check(certificates: Certificates) -> None:
    with contextlib.suppress(OSError, ValueError):
        for one in certificates.show():
            if one.fault:
                raise CommandError(
                    "DATA_FOLDER_UNUSABLE",
                    f"The certificate {one.name} in {certificates.folder} cannot be used: {one.fault} "
                    f"(valid from {one.valid_from:%Y-%m-%d %H:%M} to {one.valid_until:%Y-%m-%d %H:%M} UTC). "
                    "`ragkeep certs show` tells all, `ragkeep certs renew` makes new ones.",
                )
