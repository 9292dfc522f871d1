"""The processes' settings as `ragkeep up` makes them: from the environment, the settings file, the choice at the folder's first
start, or their defaults. Wrong ones are all found before anything starts."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from ragkeep_client.output import CommandError
from ragkeep_runtime.settings import ProcessSettings, problems_of

SERVICES = ("gateway", "embedder", "retriever", "generator")
FILE = "ragkeep.toml"
PREFIX = "RAGKEEP_"
# What `up` alone decides, so that the four find each other and nothing is outside the folder.
OWN = frozenset(
    "listen health_listen tls_cert tls_key tls_ca trust_domain policy_file data embedder retriever generator drain_s".split()
)
# What `up` sets too is the default of a folder: the file and the environment may say otherwise.
# What the choice of engines decides, with the environment's names for it, those of the engines too. RAGKEEP_ENGINE and
# RAGKEEP_MODEL would mean two processes at once.
CHOSEN: dict[str, tuple[str, ...]] = {
    "engine": (),
    "model": (),
    "ollama_url": ("RAGKEEP_OLLAMA_URL", "OLLAMA_HOST"),
    "weaviate_url": ("RAGKEEP_WEAVIATE_URL", "WEAVIATE_URL"),
    "weaviate_grpc_port": ("RAGKEEP_WEAVIATE_GRPC_PORT", "WEAVIATE_GRPC_PORT"),
}
_KEPT = {"engine": "engine", "model": "model", "ollama_url": "url", "weaviate_url": "url", "weaviate_grpc_port": "grpc_port"}
PORTS, HEALTH_PORTS, HTTP_PORT = 50061, 9161, 8443
_UP = ("ports", "health_ports", "http_port")
_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")


class Source(StrEnum):
    """Where a value comes from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    CHOSEN = "chosen at first start"
    KEPT = "kept from an earlier up"
    UP = "ragkeep up"
    UNUSED = "for another engine"  # than the one that the folder was begun with, which does not read it


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of one process."""

    service: str
    name: str  # as in the file
    value: str  # as the process reads it; "" where it is unset
    source: Source
    description: str
    said_by: str = ""  # the environment variable that said it, where one did

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def shown(self) -> str:
        """The value without a password that a URL may hold."""
        return _CREDENTIALS.sub(r"\1…@", self.value)


@dataclass(frozen=True, slots=True)
class FirstPorts:
    """The first of four ports each, that of HTTPS, and where they come from."""

    ports: int
    health_ports: int
    ports_from: Source
    health_ports_from: Source
    http_port: int = 0  # 0: no HTTPS
    http_port_from: Source = Source.DEFAULT  # nobody said one: another may be taken

    def source(self, name: str) -> Source:
        """Of a setting that `up` itself makes, some of them of the ports."""
        if name == "http_listen" and self.http_port_from is not Source.DEFAULT:
            return self.http_port_from
        if name in SERVICES or name == "listen":
            return self.ports_from
        return self.health_ports_from if name == "health_listen" else Source.UP


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What `ragkeep.toml` says; empty where there is none."""

    path: Path
    every: Mapping[str, str] = field(default_factory=dict)  # for all four
    services: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    up: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> SettingsFile:
        """The file of a data folder. What is wrong in it is in `problems`. Raises CommandError where it cannot be read."""
        path = folder / FILE
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            return cls(path)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            return cls(path, problems=(f"{FILE} is not TOML: {error}",))
        except OSError as error:
            raise CommandError("DATA_FOLDER_UNUSABLE", f"{path} cannot be read: {error.strerror}.") from None
        problems: list[str] = []
        every: dict[str, str] = {}
        services: dict[str, dict[str, str]] = {}
        up: dict[str, int] = {}
        for key, value in found.items():
            if key == "up" and isinstance(value, dict):
                up = _ports(value, problems)
            elif key in SERVICES and isinstance(value, dict):
                services[key] = _section(f"[{key}] ", value, _free(key), problems)
            elif isinstance(value, dict):
                problems.append(f"{FILE} [{key}]: there is no such section{_meant(key, (*SERVICES, 'up'))}")
            elif homes := [service for service in SERVICES if key in _free(service) and key not in _shared()]:
                problems.append(f"{FILE} {key}: belongs into a section: {', '.join(f'[{home}]' for home in homes)}.")
            else:
                every |= _section("", {key: value}, _shared(), problems)
        return cls(path, every, services, up, tuple(problems))

    def first_ports(self, kept: Mapping[str, int], asked: Mapping[str, int | None] | None = None) -> FirstPorts:
        """What was asked for, else what the file says, else what the folder kept, else the usual ones."""
        found = []
        for name, usual in zip(_UP, ((PORTS, Source.UP), (HEALTH_PORTS, Source.UP), (HTTP_PORT, Source.DEFAULT)), strict=True):
            said = ((asked or {}).get(name), Source.UP), (self.up.get(name), Source.FILE), (kept.get(name), Source.KEPT)
            found.append(next(((one, source) for one, source in said if one is not None), usual))
        (ports, ports_from), (health_ports, health_ports_from), (http_port, http_port_from) = found
        return FirstPorts(ports, health_ports, ports_from, health_ports_from, http_port, http_port_from)

    def of(self, service: str) -> dict[str, str]:
        """What it says for a service."""
        return {**self.every, **self.services.get(service, {})}


def _ports(section: Mapping[str, Any], problems: list[str]) -> dict[str, int]:
    found = {}
    for key, value in section.items():
        if key not in _UP:
            problems.append(f"{FILE} [up] {key}: there is no such setting{_meant(key, _UP)}")
        elif key == "http_port":
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
                problems.append(f"{FILE} [up] {key}: a port from 1 to 65535 is needed, or 0 for no HTTPS.")
            else:
                found[key] = value
        elif not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65532:
            problems.append(f"{FILE} [up] {key}: a port from 1 to 65532 is needed, the first of four.")
        else:
            found[key] = value
    return found


def _section(where: str, section: Mapping[str, Any], known: Iterable[str], problems: list[str]) -> dict[str, str]:
    found = {}
    known = set(known)
    for key, value in section.items():
        if key in OWN:
            way = "; [up] ports and health_ports choose the ports" if key.endswith("listen") else ""
            problems.append(f"{FILE} {where}{key}: `ragkeep up` sets it itself{way}.")
        elif key not in known:
            problems.append(f"{FILE} {where}{key}: there is no such setting{_meant(key, known)}")
        elif isinstance(value, bool) or not isinstance(value, (str, int, float)):
            problems.append(f"{FILE} {where}{key}: a text or a number is needed.")
        elif "\0" in str(value):
            problems.append(f"{FILE} {where}{key}: no process can be given a NUL.")
        else:
            found[key] = str(value)
    return found


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; is {close[0]} meant?" if close else "."


def settings_class(service: str) -> type[ProcessSettings]:
    """The settings of a service. Found by name, as its process is started by name: no module of a service is imported here."""
    return cast(type[ProcessSettings], import_module(f"ragkeep_{service}.settings").Settings)


def _free(service: str) -> set[str]:
    return set(settings_class(service).model_fields) - OWN


def _shared() -> set[str]:
    return set(ProcessSettings.model_fields) - OWN


def resolve(
    file: SettingsFile,
    environment: Mapping[str, str],
    own: Mapping[str, Mapping[str, str]],
    kept: Mapping[str, Mapping[str, str]],
) -> list[Setting]:
    """Every setting of every process. `own` is what `up` sets (by service and name), `kept` the choice of engines."""
    return [
        _resolve(service, name, info.description or "", info.default, file, environment, own[service], kept.get(service, {}))
        for service in SERVICES
        for name, info in settings_class(service).model_fields.items()
    ]


def _resolve(
    service: str,
    name: str,
    description: str,
    default: object,
    file: SettingsFile,
    environment: Mapping[str, str],
    own: Mapping[str, str],
    kept: Mapping[str, str],
) -> Setting:
    value, source = "" if default is None else str(default), Source.DEFAULT
    written = file.of(service).get(name)
    # An empty variable says nothing of an engine; to a process it is a value.
    variables = CHOSEN.get(name, (PREFIX + name.upper(),))
    said_by = next((one for one in variables if one in environment and (environment[one] or name not in CHOSEN)), "")
    if name in OWN:
        # What `up` does not set for a service stays at its default.
        value, source = (own[name], Source.UP) if name in own else (value, source)
    elif said_by:
        value, source = environment[said_by], Source.ENVIRONMENT
    elif written is not None:
        value, source = written, Source.FILE
    elif name in CHOSEN:
        engine = kept.get("engine", "auto")
        # The address of another engine than the chosen one is not kept.
        of_engine = name == "engine" or name.startswith(engine) or (name == "model" and "model" in kept)
        if name == "engine" or (of_engine and _KEPT[name] in kept):
            value, source = kept.get(_KEPT[name], "auto"), Source.CHOSEN
        elif "engine" in kept and not (name.startswith(engine) or (name == "model" and engine == "ollama")):
            # Its default, a model of Ollama beside e5, would be taken for what is served.
            value, source = "", Source.UNUSED
    elif name in own and not (name.startswith("jwt_") and _takes_tokens_of_the_site(file, environment)):
        value, source = own[name], Source.UP
    return Setting(service, name, value, source, description, said_by if source is Source.ENVIRONMENT else "")


def _takes_tokens_of_the_site(file: SettingsFile, environment: Mapping[str, str]) -> bool:
    """Whose keys and whose names belong together: `up` sets all of it, or none."""
    said = file.of("gateway")
    return any(name in said or PREFIX + name.upper() in environment for name in ("jwt_secret", "jwt_jwks"))


def problems(settings: Iterable[Setting]) -> list[str]:
    """Each wrong value, in words, as the process itself would find it."""
    found: list[str] = []
    of_service: dict[str, list[Setting]] = {}
    for one in settings:
        of_service.setdefault(one.service, []).append(one)
    for service, its in of_service.items():
        by_name = {one.name: one for one in its}
        values = {
            one.name: one.value
            for one in its
            if one.source not in (Source.DEFAULT, Source.UNUSED) and not (one.name == "engine" and one.value == "auto")
        }
        for name, problem in problems_of(settings_class(service), values):
            one = by_name[name]
            if one.source is Source.FILE:
                section = f"[{service}] " if name not in _shared() else ""
                found.append(f"{FILE} {section}{name}: {problem}.")
            else:
                found.append(f"{one.said_by or one.variable}: {problem}.")
    # What all four read alike is wrong once.
    return list(dict.fromkeys(found))


def unused(environment: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """RAGKEEP_ variables that nobody reads, each with why. `known` are those of the command."""
    known = set(known)
    names = {name for service in SERVICES for name in settings_class(service).model_fields}
    found = []
    for variable in sorted(name for name in environment if name.startswith(PREFIX) and name not in known):
        name = variable.removeprefix(PREFIX).lower()
        if name in OWN:
            found.append(f"{variable} is not used: `ragkeep up` sets it itself.")
        elif name in CHOSEN:
            found.append(f"{variable} is not used by `ragkeep up`, as it would mean two processes: use its options, or {FILE}.")
        elif name not in names:
            meant = _meant(name, names - OWN - CHOSEN.keys())
            found.append(f"{variable} is no setting of any process{re.sub(r'is (.+) meant', _as_variable, meant)}")
    return found


def _as_variable(found: re.Match[str]) -> str:
    return f"is {PREFIX}{found[1].upper()} meant"


def check(file: SettingsFile, settings: Iterable[Setting]) -> None:
    """Raises CommandError that names every wrong setting of all processes."""
    wrong = [*file.problems, *problems(settings)]
    if wrong:
        listed = "\n".join(f"  {one}" for one in wrong)
        count = "One setting is wrong" if len(wrong) == 1 else f"{len(wrong)} settings are wrong"
        raise CommandError("SETTINGS_WRONG", f"{count}; nothing was started.\n{listed}\n`ragkeep config show` tells all.")
