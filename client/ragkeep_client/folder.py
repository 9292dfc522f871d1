"""The data folder of a local installation: what lies where, who runs on it, and which engines it was begun with."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ragkeep_client.output import NOT_RUNNING, CommandError

DataOption = Annotated[
    Path, typer.Option("--data", metavar="DIR", envvar="RAGKEEP_DATA", help="Folder of certificates, documents and logs.")
]
DEFAULT = Path("~/.local/share/ragkeep")
TENANT = "demo"
# What the command may do; and what it might when it could not yet make collections.
_GRANT = {"tenants": ["*"], "roles": ["reader", "editor", "admin", "auditor", "unsealer"], "groups": ["*"]}
# What earlier versions gave.
_EARLIER_ROLES = (["reader", "editor"], ["reader", "editor", "admin"])
# Of what lies in a data folder; another one is refused.
FORMAT = 1
TenantOption = Annotated[str, typer.Option("--tenant", envvar="RAGKEEP_TENANT", help="Whose documents.")]


@dataclass(frozen=True, slots=True)
class Running:
    """One process as it was started."""

    pid: int
    started: str  # tells a later process with the same number apart
    address: str  # of gRPC, host:port
    health: str  # of the plain HTTP health port, host:port
    engine: str
    why: str
    since: float = 0.0  # seconds since 1970
    restarts: int = 0
    ended: str = ""  # how it ended, until it is started again
    again_at: float = 0.0  # when that will be, seconds since 1970


@dataclass(frozen=True, slots=True)
class State:
    """What `ragkeep up` started."""

    up_pid: int
    up_started: str
    detached: bool
    services: dict[str, Running] = field(default_factory=dict)
    https: str = ""  # where people come to; empty: nowhere


class DataFolder:
    """A data folder; making this object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.certificates = self.path / "certificates"
        self.callers = self.path / "callers"  # what was issued to other processes
        self.policy = self.path / "policy.json"
        self.keyring = self.path / "keyring.json"
        self.token_secret = self.path / "token-secret"
        self.audit = self.path / "audit"
        self.audit_key = self.path / "audit-key"
        self.store = self.path / "store"
        self.logs = self.path / "logs"
        self.up_log = self.logs / "up.log"
        self._format = self.path / "folder.json"
        self._state = self.path / "state.json"
        self._engines = self.path / "engines.json"
        self._ports = self.path / "ports.json"

    def prepare(self) -> None:
        """Makes the folder, 0700. Raises CommandError where it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            for folder in (self.certificates, self.logs, self.store):
                folder.mkdir(exist_ok=True, mode=0o700)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise CommandError(
                "DATA_FOLDER_UNUSABLE",
                f"The data folder {self.path} cannot be written: {error.strerror}. Choose another with --data DIR.",
            ) from None
        self._check_format()

    def _check_format(self) -> None:
        """A folder of another version is never guessed at. Raises CommandError."""
        found = _read(self._format)
        if found is None:
            return  # new, or begun before folders said what they are, which is format 1; `lock` writes it
        number = found.get("format") if isinstance(found, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise CommandError(
                "DATA_FOLDER_UNUSABLE",
                f"{self._format} is damaged. Choose another folder with --data DIR, or restore this one.",
            )
        if number != FORMAT:
            raise CommandError(
                "DATA_FOLDER_VERSION",
                f"The data folder {self.path} is of format {number}, written by ragkeep {found.get('ragkeep', '?')}; this "
                f"is {version('ragkeep')}, which knows format {FORMAT}. Use that version, or another folder with --data DIR.",
            )

    def lock(self) -> int:
        """An open file that holds the folder's lock; the processes inherit it, so that it lasts as long as one of them.

        Raises CommandError where another `up` holds it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            state = self.state()
            where = f" (gateway {state.services['gateway'].address})" if state and "gateway" in state.services else ""
            raise CommandError(
                "ALREADY_RUNNING",
                f"ragkeep is running on {self.path} already{where}. Stop it with `ragkeep down --data {self.path}`, "
                "or start another one with its own --data and --ports.",
            ) from None
        if not self._format.exists():
            # Under the lock: two first starts at once would write the same file.
            write_private(self._format, json.dumps({"format": FORMAT, "ragkeep": version("ragkeep")}).encode())
        return descriptor

    def state(self) -> State | None:
        """What is written to be running; None: nothing."""
        found = _read(self._state)
        try:
            return (
                None
                if found is None
                else State(
                    found["up_pid"],
                    found["up_started"],
                    found["detached"],
                    {name: Running(**one) for name, one in found["services"].items()},
                    found.get("https", ""),
                )
            )
        except (KeyError, TypeError, AttributeError):
            return None

    def write_state(self, state: State) -> None:
        """Written whole or not at all."""
        write_private(self._state, json.dumps(asdict(state), indent=1, ensure_ascii=False).encode())

    def forget_state(self) -> None:
        """Nothing runs any more."""
        self._state.unlink(missing_ok=True)

    def engines(self) -> dict[str, dict[str, str]]:
        """The engines that the folder was begun with, by service; empty before its first start."""
        found = _read(self._engines)
        return found if isinstance(found, dict) else {}

    def write_engines(self, engines: dict[str, dict[str, str]]) -> None:
        """Kept for every later start."""
        write_private(self._engines, json.dumps(engines, indent=1, ensure_ascii=False).encode())

    def ports(self) -> dict[str, int]:
        """What --ports, --health-ports and --http-port last said, as "ports" and so on; without what they never said."""
        found = _read(self._ports)
        return {name: one for name, one in found.items() if isinstance(one, int)} if isinstance(found, dict) else {}

    def write_ports(self, ports: dict[str, int]) -> None:
        """Kept for every later start."""
        write_private(self._ports, json.dumps(ports).encode())

    def ensure_policy(self, caller: str) -> bool:
        """Makes the policy with the command's own grant; says whether an older one was given what it lacked.

        Whoever can read the command's key is this user: any tenant, so that several can be tried, and every role it needs. A
        grant that somebody changed is left alone.
        """
        found = _read(self.policy)
        if found is None:
            write_private(self.policy, json.dumps({"callers": {caller: _GRANT}}, indent=1).encode())
            return False
        callers = found.get("callers") if isinstance(found, dict) else None
        earlier = [{"tenants": ["*"], "roles": roles} for roles in _EARLIER_ROLES]
        if not isinstance(callers, dict) or callers.get(caller) not in earlier:
            return False
        callers[caller] = _GRANT
        write_private(self.policy, json.dumps(found, indent=1, ensure_ascii=False).encode())
        return True

    def grant(self, caller: str, tenants: Sequence[str], roles: Sequence[str]) -> bool:
        """Writes a caller's tenants and roles into the policy, and leaves the rest of its entry; says whether it was otherwise.

        Raises CommandError where the policy is not one, or denies the caller.
        """
        from ragkeep_runtime.policy import Policy

        try:
            policy = Policy.parse(self.policy.read_bytes())
        except OSError as error:
            raise CommandError("DATA_FOLDER_UNUSABLE", f"{self.policy} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise CommandError("POLICY_WRONG", f"{self.policy} is wrong, and left as it is: {error}.") from None
        if caller in policy.denied:
            raise CommandError("CALLER_DENIED", f"{self.policy} denies {caller}. Take it out of `denied` there first.")
        found = _read(self.policy)
        entry = found["callers"].get(caller, {})
        changed = {**entry, "tenants": list(tenants), "roles": list(roles)}
        if changed == entry:
            return False
        found["callers"][caller] = changed
        write_private(self.policy, json.dumps(found, indent=1, ensure_ascii=False).encode())
        return True

    def ensure_audit_key(self) -> None:
        """Makes the secret that the audit log is authenticated with, where there is none. Raises OSError."""
        if not self.audit_key.exists():
            write_private(self.audit_key, secrets.token_urlsafe(48).encode())

    def ensure_token_secret(self) -> None:
        """Makes what `ragkeep token` signs with, where it is not there."""
        if not self.token_secret.exists():
            write_private(self.token_secret, secrets.token_urlsafe(48).encode())

    def gateway(self) -> str:
        """Where the gateway is. Raises CommandError where nothing was started here."""
        state = self.state()
        if state is None or "gateway" not in state.services:
            raise CommandError("NOT_RUNNING", f"Nothing was started with the data folder {self.path}. {NOT_RUNNING}")
        return state.services["gateway"].address


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CommandError("DATA_FOLDER_UNUSABLE", f"{path} cannot be read: {error}.") from None


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes files that only their owner can read; where there is no room for one of them, all stay as they were."""
    halves = {path: path.with_name(path.name + ".new") for path in files}
    try:
        for path, half in halves.items():
            half.unlink(missing_ok=True)
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, half in halves.items():
            half.replace(path)
    except OSError:
        for half in halves.values():
            half.unlink(missing_ok=True)
        raise
