"""The keyring's file as `ragkeep keys` changes it: one at a time, whole or not at all, for its owner alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ragkeep_client.folder import write_private
from ragkeep_client.output import CommandError
from ragkeep_runtime.keyring import Keyring, dump_keyring, new_keyring, parse_keyring


def read_keyring(path: Path) -> Keyring:
    """What the file holds. Raises CommandError."""
    try:
        return parse_keyring(path.read_bytes())
    except FileNotFoundError:
        raise CommandError("KEYRING_UNUSABLE", f"There is no keyring {path}. `ragkeep keys init` makes one.") from None
    except OSError as error:
        raise CommandError("KEYRING_UNUSABLE", f"The keyring {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CommandError("KEYRING_UNUSABLE", f"The keyring {path} is damaged: {error}. Restore it from a backup.") from None


def make_keyring(path: Path, key_id: str) -> Keyring:
    """A new one with one key. Raises CommandError where something is there: a keyring is never replaced."""
    try:
        keyring = new_keyring(key_id)
    except ValueError as error:
        raise CommandError("KEY_INVALID", f"{error}.") from None
    with _alone(path):
        if os.path.lexists(path):
            raise CommandError(
                "FILE_EXISTS",
                f"{path} exists already. A keyring is never replaced: what is sealed with it would be lost. `ragkeep keys add` "
                "adds a key.",
            )
        _write(path, keyring)
    return keyring


def change_keyring(path: Path, change: Callable[[Keyring], Keyring]) -> Keyring:
    """Gives the file what `change` makes of it. Raises CommandError, and the file is as it was."""
    with _alone(path):
        before = read_keyring(path)
        try:
            after = change(before)
        except ValueError as error:
            raise CommandError("KEY_INVALID", f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        _write(path, after)
    return after


def _write(path: Path, keyring: Keyring) -> None:
    content = dump_keyring(keyring)
    # What cannot be read again must not be in the place of what can.
    if parse_keyring(content) != keyring:
        raise AssertionError("a keyring that was written is another one when it is read")
    try:
        write_private(path, content)
    except OSError as error:
        raise CommandError("KEYRING_UNUSABLE", f"The keyring {path} cannot be written: {error.strerror}.") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other command changes the file meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError("KEYRING_UNUSABLE", f"{path.parent} cannot be written: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
