"""The audit log proven where it lies, without any service: a folder, and the keys that its owner keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ragkeep_client.audit import AuditFault, AuditVerdict
from ragkeep_client.audit_export import manifest_of, unpacked
from ragkeep_client.output import CommandError
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.heads import CUTS, HEADS_SUFFIX, Head, public_key
from ragkeep_runtime.audit.logged_heads import heads_of_log
from ragkeep_runtime.audit.verify import Fault, Verdict, Wrong, heads_in, replicas_in, verify


@dataclass(frozen=True, slots=True)
class Given:
    """What the log is proven with."""

    keys: Sequence[Path]  # secret files, of every time
    public_keys: Sequence[str]  # hex digits, or PEM files
    heads: Sequence[Path]  # beside those of the log itself: folders, and logs of gateways or of a collector


def prove(
    folder: Path, given: Given, progress: Callable[[str, int], None], note: Callable[[str], None] = lambda _text: None
) -> Iterator[tuple[AuditVerdict, bool]]:
    """Each replica's verdict, and whether its HMACs were computed; of a folder, or of a whole export. Raises CommandError."""
    lines, signers = _keys(given)
    if folder.is_file():
        try:
            with unpacked(folder) as there:
                yield from prove(there, replace(given, heads=[manifest_of(folder), *given.heads]), progress, note)
        except OSError as error:
            raise CommandError("AUDIT_FOLDER_UNUSABLE", f"{error.filename or folder}: {error.strerror or error}.") from None
        return
    try:
        folders = [folder, *(one for one in given.heads if one.is_dir())]
        for one in folders[1:]:
            if not list(one.rglob("*" + HEADS_SUFFIX)):
                raise CommandError("AUDIT_FOLDER_UNUSABLE", f"There are no heads in {one}.")
        kept = heads_in(*{path.parent for one in folders for path in one.rglob("*" + HEADS_SUFFIX)})
        logged = [head for one in given.heads if not one.is_dir() for head in _logged(one, signers, note)]
        heads = sorted({head.line(): head for head in (*kept, *logged)}.values(), key=lambda head: head.sequence)
        replicas = replicas_in(folder)
        # A whole replica that is gone has no line to tell it: its heads do, or what else is left of its folder.
        gone = [] if replicas == [folder] else _gone(folder, replicas, heads)
        if not replicas and not gone:
            raise CommandError("AUDIT_FOLDER_UNUSABLE", f"There is no audit log in {folder}.")
        for replica in sorted([*replicas, *gone]):
            its = [head for head in heads if head.replica == replica.name]

            def count(number: int, name: str = replica.name) -> None:
                progress(name, number)

            found = verify(replica, keys=lines, signers=signers, heads=its, progress=count)
            if not found.lines and found.fault is None:  # a gateway writes its first line when it starts
                found.fault = Fault(Wrong.REMOVED, 1, "", 0, "Nothing of this replica's lines is here.")
            yield _verdict(found), found.with_key
    except OSError as error:
        raise CommandError("AUDIT_FOLDER_UNUSABLE", f"{error.filename or folder}: {error.strerror or error}.") from None
    except ValueError:
        raise CommandError("AUDIT_FOLDER_UNUSABLE", f"A file of heads beside {folder} is damaged.") from None


def _logged(path: Path, signers: Sequence[Ed25519PublicKey], note: Callable[[str], None]) -> list[Head]:
    """The heads of a log that are of this installation: a collector's log holds other sites' too, signed by other keys."""
    found = [head for head in heads_of_log(path) if not head.cut]
    its = [head for head in found if head.is_signed_by(signers)]
    if not its:
        whose = f"{len(found)} in it, none of them signed by a key that is given" if found else "none"
        raise CommandError("AUDIT_FOLDER_UNUSABLE", f"There are no heads in {path} to prove with: {whose}.")
    if len(its) < len(found):
        note(f"Of the heads in {path} {len(found) - len(its)} were left out: they are signed by no key that is given.")
    return its


def _gone(folder: Path, there: Sequence[Path], heads: Sequence[Head]) -> list[Path]:
    """Folders of replicas that wrote here once, and have no line any more."""
    left = {path.parent.name for name in ("lock", CUTS, "*" + HEADS_SUFFIX) for path in folder.glob(f"*/{name}")}
    named = {head.replica for head in heads if Path(head.replica).name == head.replica}
    return [folder / name for name in (left | named) - {path.name for path in there}]


def _keys(given: Given) -> tuple[dict[str, bytes], list[Ed25519PublicKey]]:
    lines: dict[str, bytes] = {}
    signers: list[Ed25519PublicKey] = []
    try:
        for path in given.keys:
            found = Keys.read(path)
            lines[found.name] = found.lines
            # Where signers are named, who has the secret is none: a cut that he signs would take lines away.
            if not given.public_keys:
                signers.append(Ed25519PrivateKey.from_private_bytes(found.signing).public_key())
        for text in given.public_keys:
            path = Path(text)
            signers.append(public_key(path.read_text() if len(text) != 64 or path.exists() else text))
    except (OSError, ValueError) as error:
        raise CommandError("AUDIT_KEY_UNUSABLE", f"A key cannot be used: {error}.") from None
    return lines, signers


def _verdict(found: Verdict) -> AuditVerdict:
    fault = None
    if found.fault is not None:
        one = found.fault
        fault = AuditFault(one.what.value, one.sequence, one.file, one.line, one.why)
    return AuditVerdict(
        found.replica, found.lines, found.first, found.last, found.heads, found.head_sequence, tuple(found.repaired), fault
    )
