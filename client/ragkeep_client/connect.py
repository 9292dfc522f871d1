"""The command's own connection: to the gateway of a data folder, or to one that the environment names (RAGKEEP_GATEWAY)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ragkeep_client.certificates import CLI_FILE, Certificates, uri_in, way_out
from ragkeep_client.client import Client, IdentityUnusable
from ragkeep_client.folder import DataFolder
from ragkeep_client.output import CommandError
from ragkeep_client.processes import is_ours
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
        files_from = "RAGKEEP_TLS_CERT, RAGKEEP_TLS_KEY and RAGKEEP_TLS_CA name them."
    else:
        folder = DataFolder(data)
        certificates = Certificates(folder.certificates)
        target = folder.gateway()
        identity, trust_domain = Identity(*certificates.files(CLI_FILE), certificates.ca), "ragkeep.internal"
        files_from = "`ragkeep up` makes them."
    token = os.environ.get("RAGKEEP_TOKEN_FILE", "")
    read = partial(_token, Path(token)) if token else ""
    try:
        # With a token the tenant is the person's.
        client = Client(target, identity, tenant="" if token else tenant, token=read, trust_domain=trust_domain)
    except IdentityUnusable as error:
        code = "DATA_FOLDER_UNUSABLE" if remote is None else "CERTIFICATE_UNUSABLE"
        raise CommandError(
            code, f"The certificates in {identity.cert.parent} cannot be used: {error.__cause__}. {files_from}"
        ) from None
    try:
        async with client:
            yield client
    except (IdentityUnusable, NotReady) as error:
        raise explained(error, data) from None


def explained(error: Exception, data: Path) -> Exception:
    """The same, or what this machine knows better: certificates that have ended, processes that start again."""
    remote = _remote()
    if isinstance(error, IdentityUnusable):
        renewal = _renewal(remote.tls_cert) if remote is not None else "`ragkeep certs renew` makes new ones."
        return CommandError(error.reason, f"{error.message} {renewal}")
    if not isinstance(error, NotReady):
        return error
    unreachable = error.metadata.get("unreachable")
    if remote is not None:
        where = "Does it run there? RAGKEEP_GATEWAY names it, and RAGKEEP_TLS_CA whose certificate it must show."
        return CommandError("NOT_RUNNING", f"{error.message} {where}") if unreachable else error
    folder = DataFolder(data)
    # A handshake does not say why it failed; the certificates may.
    fault = _fault(Certificates(folder.certificates)) if unreachable else None
    if fault is not None:
        return fault
    service = "" if unreachable else error.metadata.get("service", "")
    away = "" if unreachable == "TLS" else _away(folder, service or "gateway")
    first = f"The {service} cannot be reached." if service else error.message
    return CommandError(error.reason, f"{first} {away}") if away else error


def _away(folder: DataFolder, service: str) -> str:
    """Whether a service that cannot be reached comes again; empty where nothing was started, or that is not known."""
    state = folder.state()
    one = state.services.get(service) if state is not None else None
    if state is None or one is None:
        return ""
    if is_ours(one.pid, one.started):
        return "It runs, and is starting or busy: try again in a moment. `ragkeep status` says what is missing."
    if not is_ours(state.up_pid, state.up_started):
        return "It has ended, and so has `up`, which would start it again: `ragkeep down`, then `ragkeep up`."
    seconds = max(0.0, one.again_at - time.time())
    when = f" in {seconds:.0f} s" if one.again_at else ""
    return f"It {one.ended or 'has ended'}, and `up` starts it again{when}: try again then. Why: `ragkeep logs {service}`."


def _renewal(cert: Path) -> str:
    """What makes the certificate of a process elsewhere anew, where its name tells."""
    name = uri_in(cert).partition("/caller/")[2]
    issued = f" (`ragkeep certs issue {name}` with a data folder)" if name else ""
    return f"Have it made anew where it was issued{issued}; RAGKEEP_TLS_CERT names it."


def _token(path: Path) -> str:
    """Read for each call: whoever renews it replaces the file."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a JWT"
        raise CommandError("TOKEN_UNUSABLE", f"RAGKEEP_TOKEN_FILE names {path}, which cannot be read: {why}.") from None


def _remote() -> Remote | None:
    if not os.environ.get("RAGKEEP_GATEWAY"):
        return None
    try:
        return Remote()  # type: ignore[call-arg]  # the environment is the only source
    except ValidationError as error:
        wrong = "; ".join(f"RAGKEEP_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        raise CommandError("SETTINGS_WRONG", f"RAGKEEP_GATEWAY is set, so these are needed too. {wrong}") from None


def _fault(certificates: Certificates) -> CommandError | None:
    """Of a certificate that the command's own connection needs and that cannot be used."""
    with contextlib.suppress(OSError, ValueError):
        for one in certificates.show():
            if one.fault and one.name in ("ca", CLI_FILE, "gateway"):
                return CommandError(
                    "CERTIFICATE_UNUSABLE",
                    f"The certificate {one.name} in {certificates.folder} cannot be used: {one.fault} "
                    f"(valid from {one.valid_from:%Y-%m-%d %H:%M} to {one.valid_until:%Y-%m-%d %H:%M} UTC). "
                    f"`ragkeep certs show` tells all, {way_out(one)} makes it anew.",
                )
    return None
