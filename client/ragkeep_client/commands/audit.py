"""`ragkeep audit`: who asked what and what they were shown; the proof that it stands as it was written; a copy of it."""

from __future__ import annotations

import hashlib
import json
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkeep_client.audit_view import COLUMNS, csv_line, row_of, show_entry, show_header, tell_missing, tell_verdict
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output, plain, run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ragkeep_client.audit import AuditEntry, ReplicaUnreachable
    from ragkeep_client.client import Client

audit_app = typer.Typer(
    help="Read, prove and export the audit log, as an auditor.", no_args_is_help=True, rich_markup_mode=None
)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Kind(StrEnum):
    """What a line records."""

    ASKED, FINISHED, REFUSED = "asked", "finished", "refused"
    ACTED, REPAIRED, STARTED = "acted", "repaired", "started"


def _time(text: str) -> datetime:
    """2h, 7d, a date (UTC), or a time with its zone."""
    try:
        if text[-1:] in _UNITS and text[:-1].isdecimal():
            return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text} is no time: 30m, 2h, 7d, 2026-11-25 or 2026-11-25T08:00:00+01:00.") from None
    if len(text) == len("2026-11-25"):
        return found.replace(tzinfo=UTC)
    if found.tzinfo is None:
        raise typer.BadParameter(f"{text} needs its zone: {text}Z, or {text}+01:00.")
    return found


SinceOption = Annotated[
    datetime | None,
    typer.Option("--since", parser=_time, metavar="TIME", help="Of then or later: 2h, 7d, a date (UTC), a time with zone."),
]
BeforeOption = Annotated[datetime | None, typer.Option("--before", parser=_time, metavar="TIME", help="Before then.")]
SubjectOption = Annotated[str, typer.Option("--subject", help="Of this person or, where none is named, this peer.")]
OfTenantOption = Annotated[str, typer.Option("--of-tenant", help="Of this tenant; for the operator, who sees all.")]
RequestOption = Annotated[str, typer.Option("--request", help="Of this request id.")]
KindOption = Annotated[list[Kind] | None, typer.Option("--kind", help="Of this kind; may be repeated.")]
DocumentOption = Annotated[
    str, typer.Option("--document", help="That name this document: who was shown it, asked for it, changed it.")
]
RpcOption = Annotated[str, typer.Option("--rpc", help="Of this RPC, e.g. Ask.")]
OutcomeOption = Annotated[
    str, typer.Option("--outcome", help="That ended so: OK, attempted, CANCELLED, or a reason, e.g. NOT_ALLOWED.")
]


@audit_app.command()
def show(
    since: SinceOption = None,
    before: BeforeOption = None,
    subject: SubjectOption = "",
    of_tenant: OfTenantOption = "",
    request: RequestOption = "",
    kind: KindOption = None,
    document: DocumentOption = "",
    rpc: RpcOption = "",
    outcome: OutcomeOption = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="How many of the last lines; 0: all.")] = 50,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Show lines of the audit log, of every gateway, with times in UTC; with --json as they stand."""
    from ragkeep_client.audit import AuditEntry
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> bool:
        found = False
        async with connected(data, tenant) as client:
            entries = _read(
                client, since, before, subject, of_tenant, request, kind, document, rpc, outcome, last=lines, follow=follow
            )
            async with aclosing(entries):
                async for entry in entries:
                    if isinstance(entry, AuditEntry):
                        if not found:
                            show_header(output)
                        show_entry(output, entry)
                        found = True
                    else:
                        tell_missing(output, entry)
        return found

    if not run(output, work()):
        output.note(f"No line of {of_tenant or tenant} fits.", style="dim")


@audit_app.command()
def verify(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="An audit folder, or a whole export, to prove without any service.  [default: ask the gateways]",
        ),
    ] = None,
    key: Annotated[list[Path] | None, typer.Option("--key", metavar="FILE", help="RAGKEEP_AUDIT_KEY's; several.")] = None,
    public_key: Annotated[
        list[str] | None,
        typer.Option("--public-key", metavar="KEY", help="That signs heads: hex, or a PEM file; several."),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(
            "--heads", metavar="PATH", help="Heads kept elsewhere: a folder, or a log of gateways or a collector; several."
        ),
    ] = None,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Prove that every line stands as it was written, or name the first one that does not; then the exit code is 1.

    With a FOLDER (or an export's file) and --key every HMAC is computed here; with --public-key alone the signed heads prove
    what they cover.
    """
    from ragkeep_client.audit import AuditProgress, AuditVerdict
    from ragkeep_client.connect import connected

    output = Output(as_json)
    given = key or public_key or heads
    if folder is None and given:
        raise typer.BadParameter("--key, --public-key and --heads are for a FOLDER: a gateway has its own.")
    if folder is not None and not (key or public_key):
        raise typer.BadParameter("A FOLDER is proven with --key, or with --public-key.")

    async def from_service() -> bool:
        well = True
        with output.notes.status("proving …") as status:
            async with connected(data, tenant) as client, aclosing(client.verify_audit()) as found:
                async for one in found:
                    if isinstance(one, AuditProgress):
                        status.update(f"proving {plain(one.replica)}: {one.lines:,} lines …")
                    elif isinstance(one, AuditVerdict):
                        well &= tell_verdict(output, one)
                    else:
                        tell_missing(output, one)
                        well = False
        return well

    async def from_folder() -> bool:
        from ragkeep_client.audit_proof import Given, prove

        well = True
        assert folder is not None  # noqa: S101 - for the checker
        with output.notes.status("proving …") as status:
            verdicts = prove(
                folder,
                Given(key or [], public_key or [], heads or []),
                lambda name, number: status.update(f"proving {plain(name)}: {number:,} lines …"),
                lambda text: output.note(f"! {plain(text)}", style="yellow"),
            )
            for verdict, with_key in verdicts:
                well &= tell_verdict(output, verdict, with_key=with_key)
        return well

    if not run(output, from_service() if folder is None else from_folder()):
        raise typer.Exit(1)


@audit_app.command()
def export(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; FILE.manifest.json says what it holds.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="For a spreadsheet, instead of JSON lines as they stand.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist already.")] = False,
    since: SinceOption = None,
    before: BeforeOption = None,
    subject: SubjectOption = "",
    of_tenant: OfTenantOption = "",
    request: RequestOption = "",
    kind: KindOption = None,
    document: DocumentOption = "",
    rpc: RpcOption = "",
    outcome: OutcomeOption = "",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Write lines of the audit log to a file, with a manifest: its digest, and the signed heads of every replica."""
    from ragkeep_client.audit import AuditEntry
    from ragkeep_client.audit_export import manifest_of
    from ragkeep_client.commands.export import check_absent, target
    from ragkeep_client.connect import connected

    output = Output(as_json)
    manifest_file = manifest_of(to)

    async def work() -> int:
        if not force:
            check_absent(to)
            check_absent(manifest_file)
        count, digest = 0, hashlib.sha256()
        replicas: dict[str, dict[str, Any]] = {}
        missing: list[dict[str, str]] = []
        async with connected(data, tenant) as client:
            # Heads first: they know of no line that is not in what is read after them.
            async with aclosing(client.audit_heads()) as heads:
                async for head in heads:
                    if hasattr(head, "address"):
                        continue  # said below
                    of = replicas.setdefault(head.replica, {"lines": 0, "heads": []})
                    of["heads"].append(json.loads(head.line))
                    of["public_key"] = head.public_key
            entries = _read(client, since, before, subject, of_tenant, request, kind, document, rpc, outcome)
            with target(to, not force) as write, output.notes.status("exporting …"):

                def put(text: str) -> None:
                    write(text)
                    digest.update(text.encode())

                if as_csv:
                    put(csv_line(COLUMNS))
                async with aclosing(entries):
                    async for entry in entries:
                        if not isinstance(entry, AuditEntry):
                            missing.append(asdict(entry))
                            continue
                        put(csv_line(row_of(entry)) if as_csv else entry.line + "\n")
                        count += 1
                        of = replicas.setdefault(entry.replica, {"lines": 0, "heads": []})
                        of.setdefault("first", entry.sequence)
                        of["last"], of["lines"] = entry.sequence, of["lines"] + 1
        limits = {"since": since and since.isoformat(), "before": before and before.isoformat(), "subject": subject,
                  "tenant": of_tenant, "request": request, "kinds": [one.value for one in kind or []], "document": document,
                  "rpc": rpc, "outcome": outcome}  # fmt: skip
        manifest = {
            "file": to.name,
            "sha256": digest.hexdigest(),
            "lines": count,
            "made": datetime.now(UTC).isoformat(),
            "limited_to": {name: value for name, value in limits.items() if value},
            "unreachable": missing,
            "replicas": replicas,
        }
        with target(manifest_file, not force) as write:
            write(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        if missing:
            names = ", ".join(one["address"] for one in missing)
            raise CommandError("AUDIT_INCOMPLETE", f"{to} lacks the lines of gateways that did not answer: {names}.")
        return count

    count = run(output, work())
    output.line("exported", {"lines": count, "file": str(to), "manifest": str(manifest_file)})
    output.note(f"{count} lines → {to}, {manifest_file.name}", style="green")


def _read(
    client: Client,
    since: datetime | None,
    before: datetime | None,
    subject: str,
    of_tenant: str,
    request: str,
    kind: list[Kind] | None,
    document: str,
    rpc: str,
    outcome: str,
    *,
    last: int = 0,
    follow: bool = False,
) -> AsyncGenerator[AuditEntry | ReplicaUnreachable]:
    return client.read_audit(
        since=since,
        before=before,
        subject=subject,
        tenant=of_tenant,
        request_id=request,
        kinds=[one.value for one in kind or []],
        document_id=document,
        rpc=rpc,
        outcome=outcome,
        last=last,
        follow=follow,
    )
