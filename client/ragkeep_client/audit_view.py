"""How the command tells the audit log: lines, verdicts, and rows for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC
from typing import TYPE_CHECKING, Any

from ragkeep_client.output import Output, plain

if TYPE_CHECKING:
    from ragkeep_client.audit import AuditEntry, AuditVerdict, ReplicaUnreachable

COLUMNS = (
    "time replica seq kind outcome subject tenant peer roles method collection model question documents requested "
    "rejected call request_id trace_id mac more"
).split()
# Of what is shown to people, and the cells that each has at least.
_HEADER, _WIDTHS = ("TIME (UTC)", "LINE", "KIND", "RPC", "OUTCOME", "WHO"), (20, 12, 8, 16, 11, 18)
# Of faults that are not something that a line "was".
_FAULTS = {"key missing": "{} is of a key that is missing", "head false": "the head of {} is not of a key that is known"}
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def tell_missing(output: Output, one: ReplicaUnreachable) -> None:
    """A gateway whose lines are not here."""
    output.line("unreachable", asdict(one))
    output.note(
        f"! the gateway at {plain(one.address)} did not answer ({plain(one.reason)}): its lines are missing", style="yellow"
    )


def show_header(output: Output) -> None:
    """What the columns of `show_entry` are, for people."""
    if not output.as_json:
        output.console.print("".join(_in_columns(_HEADER)).rstrip(), style="dim", soft_wrap=True)


def _in_columns(texts: Iterable[str]) -> list[str]:
    from rich.cells import cell_len

    return [text + " " * max(1, width + 1 - cell_len(text)) for text, width in zip(texts, _WIDTHS, strict=True)]


def show_entry(output: Output, entry: AuditEntry) -> None:
    """A line for people; for machines as it stands."""
    from rich.text import Text

    if output.as_json:
        print(entry.line, flush=True)
        return
    facts = entry.facts
    style = {"refused": "bold red", "repaired": "yellow", "acted": "cyan"}.get(entry.kind, "green")
    rpc = str(facts.get("method", facts.get("action", ""))).rpartition("/")[2]
    who = str(facts.get("subject") or facts.get("peer") or "")
    time = f"{entry.time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    line = f"{entry.replica}:{entry.sequence}"
    texts = [time, *(_quoted(text) if text else "–" for text in (line, entry.kind, rpc, str(facts.get("outcome", "")), who))]
    parts = list(zip(_in_columns(texts), ("dim", "dim", style, "bold", "", ""), strict=True))
    hidden = {"seq", "time", "replica", "kind", "mac", "method", "subject", "token", "call", "request_id", "trace_id", "roles"}
    hidden |= {"action"}
    hidden |= {"outcome"} if facts.get("subject") else {"outcome", "peer"}
    for name, value in facts.items():
        if name not in hidden:
            parts += [
                (f" {_quoted(name)}=", "dim"),
                (_counts(value) if name == "outcomes" and isinstance(value, dict) else _short(value) or "–", ""),
                (" ", ""),
            ]
    text = Text.assemble(*parts)
    text.rstrip()
    output.console.print(text, soft_wrap=True)


def _short(value: Any) -> str:
    if isinstance(value, list):
        more = f" … {len(value)} in all" if len(value) > 8 else ""
        return ", ".join(_quoted(str(one)) for one in value[:8]) + more
    return _quoted(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _counts(value: dict[str, Any]) -> str:
    return ", ".join(f"{_short(count)} {_quoted(name)}" for name, count in value.items()) or "–"


def _quoted(text: str) -> str:
    """One word as it is; else between quotes, on one line: no caller's text looks like a line or a fact of its own."""
    if text.isprintable() and text and not set(text) & set(' ="'):
        return text
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in escaped)


def tell_verdict(output: Output, verdict: AuditVerdict, *, with_key: bool = True) -> bool:
    """Whether all is proven. Without the key signed heads alone prove lines, up to the last one that they know."""
    proven = verdict.last if with_key else verdict.head_sequence
    output.line("verdict", asdict(verdict) | {"hmacs": with_key, "proven": proven})
    name, fault = plain(verdict.replica), verdict.fault
    if verdict.withheld:
        if fault is not None:
            output.say(f"✗ {name}: {_became('a line', fault.what)}", style="bold red")
            output.say(f"  {plain(fault.why)}")
            return False
        output.say(f"✓ {name}: every line is as it was written", style="green")
        return True
    if fault is not None:
        where = f" ({plain(fault.file)}, line {fault.line})" if fault.file else ""
        output.say(f"✗ {name}: {_became(f'line {fault.sequence}', fault.what)}{where}", style="bold red")
        output.say(f"  {plain(fault.why)}")
        if proven:
            output.say(
                f"  lines {verdict.first} to {min(proven, fault.sequence - 1)} before it are as they were written", style="dim"
            )
        return False
    if verdict.last > proven:
        beyond = f"lines {max(proven + 1, verdict.first)} to {verdict.last} are"
        output.say(f"✗ {name}: {beyond} not proven: no signed head knows of them, and --key is not given", style="bold red")
        if proven:
            output.say(f"  lines {verdict.first} to {proven} are as they were written: signed heads prove it", style="dim")
        return False
    heads = f"signed heads prove it up to line {verdict.head_sequence}" if verdict.heads else "there is no signed head yet"
    output.say(f"✓ {name}: lines {verdict.first} to {verdict.last} are as they were written; {heads}", style="green")
    if verdict.repaired:
        output.say(f"  repairs are on record in the lines {', '.join(map(str, verdict.repaired))}", style="yellow")
    return True


def _became(line: str, what: str) -> str:
    return _FAULTS[what].replace("{}", line) if what in _FAULTS else f"{line} was {plain(what)}"


def csv_line(values: Sequence[str]) -> str:
    """A row."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def row_of(entry: AuditEntry) -> list[str]:
    """Of a spreadsheet, in the order of COLUMNS."""
    found = []
    more = {name: value for name, value in entry.facts.items() if name not in COLUMNS and name != "question_hmac"}
    for column in COLUMNS[:-1]:
        value = entry.facts.get(column, entry.facts.get("question_hmac", "") if column == "question" else "")
        text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
        found.append("'" + text if text.startswith(_FORMULA) else text)
    return [*found, json.dumps(more, ensure_ascii=False) if more else ""]
