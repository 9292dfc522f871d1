"""The audit log as the settings want it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_gateway.audit.log import AuditLog, Earlier
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.audit.refusals import Refusals
from ragkeep_gateway.settings import Settings
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.heads import private_key, public_hex, public_key
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.process import Server

log = get_logger()


def replica_of(settings: Settings) -> str:
    """Its name in the log."""
    return settings.audit_replica or socket.gethostname()


async def open_audit(settings: Settings, server: Server) -> Audit:
    """Opens it, and has the server use and close it. Raises OSError or ValueError where it cannot be opened."""
    if settings.audit_folder is None:
        log.warning("audit_off", way_out="RAGKEEP_AUDIT_FOLDER and RAGKEEP_AUDIT_KEY")
        return Audit(None)
    if settings.audit_key is None:
        raise ValueError("RAGKEEP_AUDIT_KEY is needed where RAGKEEP_AUDIT_FOLDER is set: a file with 32 random bytes or more")
    keys = Keys.read(settings.audit_key)
    signing = (
        private_key(settings.audit_signing_key)
        if settings.audit_signing_key is not None
        else Ed25519PrivateKey.from_private_bytes(keys.signing)
    )
    earlier = earlier_keys(settings.audit_earlier_keys, derived=settings.audit_signing_key is None)
    files = AuditFiles(
        settings.audit_folder,
        replica_of(settings),
        keys.lines,
        signing,
        heads=settings.audit_heads,
        earlier_signers=earlier.signers,
    )
    if keys.name in earlier.lines:
        raise ValueError("RAGKEEP_AUDIT_KEY is one of RAGKEEP_AUDIT_EARLIER_KEYS: a key that was replaced writes no more lines")
    found = AuditLog(
        files, keys, earlier=earlier, question=settings.audit_question, days=settings.audit_days, head_s=settings.audit_head_s
    )
    public = public_hex(signing)
    await found.start(version=version("ragkeep"), public_key=public)
    log.info("audit_opened", replica=replica_of(settings), public_key=public)
    refusals = Refusals(found)
    settling = asyncio.create_task(refusals.settle_always())

    async def close() -> None:
        settling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await settling
        await found.close()

    server.on_refusal(refusals)
    server.ready_when(found.check)
    server.on_close(close)
    return Audit(found)


def earlier_keys(path: Path | None, *, derived: bool) -> Earlier:
    """Secrets, and PEM files of public keys that signed heads. Raises OSError or ValueError.

    A secret signs heads only where `derived`: who has one does not sign for a site with a signing key of its own.
    """
    lines: dict[str, bytes] = {}
    signers: list[Ed25519PublicKey] = []
    if path is None:
        return Earlier()
    for one in sorted(path.parent.glob(path.name)) if "*" in path.name else [path]:
        content = one.read_bytes()
        if content.startswith(b"-----BEGIN"):
            try:
                signers.append(public_key(content.decode()))
            except ValueError:
                raise ValueError(f"the earlier audit key {one.name} is not the public part of an Ed25519 key in PEM") from None
            continue
        keys = Keys.read(one)
        lines[keys.name] = keys.lines
        if derived:
            signers.append(Ed25519PrivateKey.from_private_bytes(keys.signing).public_key())
    return Earlier(lines, tuple(signers))
