"""`ragkeep keys`: the keyring of sealed fields, made and changed; what is sealed, sealed anew with another key."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataFolder, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output, plain, run

if TYPE_CHECKING:
    from ragkeep_client.key_calls import Rotation
    from ragkeep_runtime.keyring import Keyring

keys = typer.Typer(
    help="Make and change the keyring of sealed fields; seal anew with another of its keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
KeyringOption = Annotated[
    Path | None,
    typer.Option(
        "--keyring",
        metavar="FILE",
        envvar="RAGKEEP_KEYRING",
        help="The keyring.  [default: that of the folder's gateway]",
    ),
]
IdOption = Annotated[str | None, typer.Option("--id", metavar="ID", help="The key's id.  [default: by the day]")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The key's id.")]


@keys.command()
def init(
    keyring: KeyringOption = None, key_id: IdOption = None, data: DataOption = DEFAULT, as_json: JsonOption = False
) -> None:
    """Make a keyring with one key. A running gateway takes it; one that is there already is never replaced."""
    from ragkeep_client.keyring_file import make_keyring
    from ragkeep_runtime.keyring import new_key_id

    output = Output(as_json)
    try:
        path = _path(keyring, data)
        made = make_keyring(path, key_id or new_key_id())
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    _tell(output, path, made)
    output.say(f"{path}: a keyring with the key {made.active}.", style="green")
    output.note("Keep a copy of it elsewhere, and never beside a backup of the documents: without it sealed values are lost.")


@keys.command()
def add(
    keyring: KeyringOption = None,
    key_id: IdOption = None,
    inactive: Annotated[
        bool, typer.Option("--inactive", help="Not to be sealed with yet: first every gateway gets the file.")
    ] = False,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Add a key, and seal with it from now on. `ragkeep keys rotate` then seals anew what is there."""
    from ragkeep_client.keyring_file import change_keyring
    from ragkeep_runtime.keyring import new_key_id

    output = Output(as_json)
    name = key_id or new_key_id()
    try:
        path = _path(keyring, data)
        changed = change_keyring(path, lambda found: found.with_key(name, active=not inactive))
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    _tell(output, path, changed)
    if inactive:
        output.say(f"{name} is added. Once every gateway has the file: `ragkeep keys activate {name}`.", style="green")
    else:
        output.say(f"{name} is added and active. `ragkeep keys rotate` seals anew what is there.", style="green")
    output.note("Keep a copy of the keyring elsewhere.")


@keys.command()
def activate(
    key_id: IdArgument, keyring: KeyringOption = None, data: DataOption = DEFAULT, as_json: JsonOption = False
) -> None:
    """Seal with this key from now on."""
    from ragkeep_client.keyring_file import change_keyring

    output = Output(as_json)
    try:
        path = _path(keyring, data)
        changed = change_keyring(path, lambda found: found.activated(key_id))
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    _tell(output, path, changed)
    output.say(f"{key_id} is active. `ragkeep keys rotate` seals anew what is there.", style="green")


@keys.command()
def remove(
    key_id: IdArgument,
    force: Annotated[bool, typer.Option("--force", help="Do not ask the gateway whether a value needs it.")] = False,
    keyring: KeyringOption = None,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Remove a key that no value needs: the gateway is asked first, and looks at every sealed value."""
    from ragkeep_client.keyring_file import change_keyring, read_keyring

    output = Output(as_json)

    async def count() -> int:
        found = await _rotated(output, tenant, data, dry_run=True)
        return found.values_by_key.get(key_id, 0)

    try:
        path = _path(keyring, data)
        if key_id != read_keyring(path).active and not force:
            needed = run(output, count())
            if needed:
                raise CommandError(
                    "KEY_IN_USE", f"{needed} values are sealed with {key_id}: they would be lost. First `ragkeep keys rotate`."
                )
        changed = change_keyring(path, lambda found: found.without(key_id))
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    _tell(output, path, changed)
    output.say(f"{key_id} is removed. Backups of documents that were made before may need it: keep its copy as long as them.")


@keys.command("list")
def list_(
    usage: Annotated[bool, typer.Option("--usage", help="Ask the gateway how many values each key has sealed.")] = False,
    keyring: KeyringOption = None,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """List the keys by their ids, never their secrets; with --usage also how many values each has sealed."""
    from ragkeep_client.keyring_file import read_keyring

    output = Output(as_json)
    try:
        path = _path(keyring, data)
        found = read_keyring(path)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    counts = run(output, _rotated(output, tenant, data, dry_run=True)).values_by_key if usage else {}
    for key_id in found.keys:
        facts = {"id": key_id, "active": key_id == found.active}
        output.line("key", facts | ({"values": counts.get(key_id, 0)} if usage else {}))
        count = counts.get(key_id, 0)
        values = f"  {count} value{'' if count == 1 else 's'}" if usage else ""
        output.say(f"{key_id}{'  active' if key_id == found.active else ''}{values}")
    for key_id in sorted(set(counts) - set(found.keys)):
        output.line("missing", {"id": key_id, "values": counts[key_id]})
        output.note(f"{plain(key_id)} is not in the keyring, and {counts[key_id]} values need it.", style="red")
    if path.stat().st_mode & 0o077:
        output.note(f"{path} can be read by others than its owner: chmod 600.", style="yellow")


@keys.command()
def rotate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the values of each key; seal nothing.")] = False,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Seal every sealed value of every tenant anew with the active key, while all else goes on; repeated, it goes on.

    Afterwards it says which keys nothing needs any more. Exit code 1 where a value could not be opened.
    """
    output = Output(as_json)
    found = run(output, _rotated(output, tenant, data, dry_run=dry_run, told=True))
    facts = asdict(found)
    del facts["done"]
    output.line("rotated", facts | {"dry_run": dry_run})
    counts = ", ".join(f"{plain(key_id)}: {count}" for key_id, count in sorted(found.values_by_key.items())) or "none"
    if dry_run:
        output.say(f"{found.documents} documents were looked at. Sealed values by key: {counts}.")
    else:
        output.say(
            f"{found.resealed_documents} of {found.documents} documents were sealed anew with {plain(found.active_key)}. "
            f"Sealed values by key: {counts}.",
            style="green",
        )
        if found.unused_keys:
            output.say(f"Nothing needs {', '.join(map(plain, found.unused_keys))} any more: `ragkeep keys remove ID`.")
    if found.missing_keys or found.unreadable_values:
        missing = f" Not in the keyring: {', '.join(map(plain, found.missing_keys))}." if found.missing_keys else ""
        reason = "SEALING_KEY_MISSING" if found.missing_keys else "SEALED_VALUE_DAMAGED"
        raise output.fail(reason, f"{found.unreadable_values} values could not be opened, and are left as they are.{missing}")


async def _rotated(output: Output, tenant: str, data: Path, *, dry_run: bool, told: bool = False) -> Rotation:
    """All of it, with a bar for people; `told`: with a JSON line a page too."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ragkeep_client.connect import connected

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    last: Rotation | None = None
    with Progress(*columns, console=output.notes, transient=True, disable=not output.notes.is_terminal) as bar:
        task = bar.add_task("counting" if dry_run else "sealing anew", total=None)
        async with connected(data, tenant) as client, aclosing(client.rotate_keys(dry_run=dry_run)) as events:
            async for last in events:
                if told and not last.done:
                    output.line("progress", {"documents": last.documents, "total_documents": last.total_documents})
                bar.update(task, completed=last.documents, total=max(last.total_documents, last.documents))
    if last is None or not last.done:
        raise CommandError("NOT_READY", "The gateway did not end what it began: repeat the command.")
    return last


def _path(keyring: Path | None, data: Path) -> Path:
    from ragkeep_client.settings import SettingsFile

    folder = DataFolder(data)
    if keyring is not None:
        return keyring.expanduser().absolute()
    written = SettingsFile.read(folder.path).of("gateway").get("keyring")
    return Path(written).expanduser().absolute() if written else folder.keyring


def _tell(output: Output, path: Path, keyring: Keyring) -> None:
    output.line("keyring", {"file": str(path), "active": keyring.active, "keys": list(keyring.keys)})
