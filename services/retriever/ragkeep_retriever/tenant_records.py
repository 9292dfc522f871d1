"""A tenant's record as stores keep it: JSON with a version; what is left of one that was deleted; whether it takes more."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from ragkeep_retriever.values import TenantRecord
from ragkeep_runtime.errors import CatalogueTooNew, EngineFailed, TenantInactive, TenantUnknown

VERSION = 1
SALT_BYTES = 32


def new_record(name: str) -> TenantRecord:
    """A tenant that begins now, with a salt that nobody else has."""
    return TenantRecord(name, True, datetime.now(UTC), secrets.token_bytes(SALT_BYTES))


def dump(record: TenantRecord) -> str:
    """The record as JSON."""
    plain = {
        "version": VERSION,
        "name": record.name,
        "active": record.active,
        "created": record.created.isoformat(),
        "salt": base64.b64encode(record.salt).decode(),
        "deleting": None if record.deleting is None else dict(record.deleting),
    }
    return json.dumps(plain, ensure_ascii=False)


def tombstone(name: str) -> str:
    """What stands in a record's place once the tenant is deleted, so that a put that began before finds its end; no salt."""
    return json.dumps({"version": VERSION, "name": name, "deleted": datetime.now(UTC).isoformat()}, ensure_ascii=False)


def load(text: str | None) -> TenantRecord | None:
    """The record; None where there is none or it was deleted. Raises CatalogueTooNew, EngineFailed."""
    if text is None:
        return None
    try:
        plain = json.loads(text)
        if int(plain["version"]) > VERSION:
            raise CatalogueTooNew(
                f"The tenant's record was written in the form {plain['version']} of a newer ragkeep, and this one reads up to "
                f"{VERSION}. Use the newer one."
            )
        if "deleted" in plain:
            return None
        return TenantRecord(
            plain["name"],
            plain["active"],
            datetime.fromisoformat(plain["created"]),
            base64.b64decode(plain["salt"]),
            plain["deleting"],
        )
    except (ValueError, KeyError, TypeError):
        raise EngineFailed("A tenant's record is not one that ragkeep wrote: restore it from a backup.") from None


def digest(record: TenantRecord) -> bytes:
    """Tells a record from another one of the same name."""
    return hashlib.sha256(record.salt).digest()


def check_takes_documents(text: str | None, tenant: str, wanted: bytes = b"") -> bytes:
    """The record's digest; empty where there is no record yet. One that is `wanted` must still be it.

    Raises TenantInactive, and TenantUnknown where the tenant was deleted.
    """
    record = load(text)
    found = digest(record) if record is not None else b""
    if (record is None and text is not None) or (wanted and found != wanted):
        raise TenantUnknown(f"The tenant {tenant[:64]!r} was deleted. Create it again, or leave it.")
    if record is not None and not record.active:
        raise inactive(record)
    return found


def inactive(record: TenantRecord) -> TenantInactive:
    """The error for one that is not active."""
    if record.deleting is not None:
        return TenantInactive(f"The tenant {record.name[:64]!r} is being deleted. Delete it again where that was broken off.")
    return TenantInactive(f"The tenant {record.name[:64]!r} is not active. An admin can activate it again.")


def unknown(name: str) -> TenantUnknown:
    """The error for one that is not there."""
    return TenantUnknown(f"There is no tenant {name[:64]!r}. `ragkeep tenants list` lists those that are.")


def going(record: TenantRecord, counts: Mapping[str, int]) -> TenantRecord:
    """The record with its deletion begun; what an attempt before counted stays counted."""
    before = record.deleting or {}
    counted = {name: max(counts.get(name, 0), before.get(name, 0)) for name in sorted({*counts, *before})}
    return TenantRecord(record.name, False, record.created, record.salt, {name: n for name, n in counted.items() if n})
