"""The keyring's file, followed from before it is there: `ragkeep keys init` needs no restart."""

from __future__ import annotations

from pathlib import Path

from ragkeep_runtime.errors import SealingUnavailable
from ragkeep_runtime.following import FollowedFile
from ragkeep_runtime.keyring import Keyring, parse_keyring
from ragkeep_runtime.logs import get_logger

log = get_logger()


class KeyringFile:
    """What the file holds now. Raises ValueError for one that is broken when the process starts."""

    def __init__(self, path: Path | None) -> None:
        self._file: FollowedFile[Keyring | None] | None = None
        if path is not None:
            self._file = FollowedFile(path, parse_keyring, what="keyring", absent=lambda: None)
            if self._file.current() is None:
                log.warning("keyring_missing", file=path.name)

    def current(self) -> Keyring | None:
        """The keyring; None where there is none (yet)."""
        return self._file.current() if self._file is not None else None

    def look(self) -> None:
        """Whether the file changed."""
        if self._file is not None:
            self._file.look()

    def needed(self) -> Keyring:
        """The keyring. Raises SealingUnavailable where there is none."""
        found = self.current()
        if found is None:
            raise SealingUnavailable(
                "The collection has sealed fields, and the gateway has no keyring: `ragkeep keys init` makes one, and the "
                "gateway's setting RAGKEEP_KEYRING names it."
            )
        return found
