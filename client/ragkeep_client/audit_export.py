"""An export of the whole audit log, laid out as gateways write it: so it is proven as their folders are."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ragkeep_client.output import CommandError
from ragkeep_runtime.audit.chain import LineDamaged, read_line
from ragkeep_runtime.audit.heads import CUTS
from ragkeep_runtime.audit.logged_heads import heads_of_log
from ragkeep_runtime.audit.verify import SUFFIX

_DAY, _REPLICA = re.compile(r"\d{4}-\d\d-\d\d\Z"), re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def manifest_of(export: Path) -> Path:
    """Where an export's manifest is."""
    return export.with_name(export.name + ".manifest.json")


@contextmanager
def unpacked(export: Path) -> Iterator[Path]:
    """A folder with a folder a replica and a file a day. Raises CommandError, OSError."""
    _check_whole(export)
    with tempfile.TemporaryDirectory(prefix="ragkeep-audit-") as name:
        folder = Path(name)
        _lay_out(export, folder)
        for cut in heads_of_log(manifest_of(export)):
            if cut.cut and (folder / cut.replica).is_dir():
                (folder / cut.replica / CUTS).write_bytes(cut.line())
        yield folder


def _check_whole(export: Path) -> None:
    path = manifest_of(export)
    try:
        manifest = json.loads(path.read_bytes())
        lacks = [f"limited to some ({', '.join(manifest['limited_to'])})"] if manifest["limited_to"] else []
        lacks += [f"without {', '.join(one['address'] for one in manifest['unreachable'])}"] if manifest["unreachable"] else []
        if not manifest["replicas"] or not all(of["heads"] for of in manifest["replicas"].values()):
            lacks.append("without signed heads, which are the operator's")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CommandError("AUDIT_FOLDER_UNUSABLE", f"{path} is no manifest of an export.") from None
    if lacks:
        said = f"{export} was made {' and '.join(lacks)}: lines are missing, so it cannot be proven. Export all of them."
        raise CommandError("AUDIT_FOLDER_UNUSABLE", said)


def _lay_out(export: Path, folder: Path) -> None:
    day: dict[str, str] = {}  # of each replica, as its gateway chose it: never an earlier one
    replica = ""
    with ExitStack() as held, export.open("rb") as lines:
        files: dict[str, BinaryIO] = {}
        for raw in lines:
            try:
                facts = read_line(raw).facts
                its, on = str(facts["replica"]), str(facts["time"])[:10]
                known = bool(_REPLICA.match(its) and _DAY.match(on))
            except LineDamaged:
                known = False
            if known:
                replica, before = its, day.get(its, "")
                day[its] = max(on, before)
                if day[its] != before:
                    (folder / its).mkdir(exist_ok=True)
                    files[its] = held.enter_context((folder / its / (day[its] + SUFFIX)).open("ab"))
            # What is no line stands behind the one before it: the proof names it there.
            if replica:
                files[replica].write(raw)
