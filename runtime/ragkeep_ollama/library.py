"""Ollama's models: `/api/tags`, `/api/show`, `/api/ps`; loaded and unloaded with one set of options, pulled when told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import ollama

from ragkeep_ollama.errors import failed, full_name, keep_alive_of, not_installed, unreachable
from ragkeep_ollama.registry import Registry, registry_of
from ragkeep_runtime.deadline import remaining
from ragkeep_runtime.errors import (
    EngineFailed,
    ModelUnknown,
    ModelUnsuitable,
    PullNotAllowed,
    RagkeepError,
    RegistryFailed,
    StorageFull,
)
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.model_library import InstalledModel, LoadedModel, PullProgress, PullStage, checked_name
from ragkeep_runtime.telemetry import span

log = get_logger()
_CONNECT_S, _ASK_S, _LOAD_S = 1.5, 30.0, 300.0
# Between an unload and Ollama's word that it is done.
_UNLOAD_S, _POLL_S = 5.0, 0.05
# Ollama writes "for ever" as a moment in some centuries.
_FOREVER_YEAR = 2200

Job = Literal["embedding", "completion"]
_SERVICES = {"embedding": "embedder", "completion": "generator"}
_VERBS = {"embedding": "embed", "completion": "chat"}


@dataclass(frozen=True, slots=True)
class Pinned:
    """What each request for a model carries, whoever asks: another set would make Ollama load the model anew."""

    num_ctx: int
    num_thread: int = 0  # 0: Ollama's own choice
    keep_alive: str = "-1"

    def window(self, context_tokens: int) -> int:
        """Of a model that was trained for so many tokens (0: not known): Ollama gives no more than that, without a word."""
        return min(self.num_ctx, context_tokens) if context_tokens else self.num_ctx

    def options(self, context_tokens: int) -> dict[str, Any]:
        """For such a model."""
        found = {"num_ctx": self.window(context_tokens)}
        return found | ({"num_thread": self.num_thread} if self.num_thread else {})


@dataclass(frozen=True, slots=True)
class Shown:
    """What `/api/show` says of a model."""

    capabilities: tuple[str, ...]
    context_tokens: int
    details: dict[str, str] = field(default_factory=dict)


class OllamaLibrary:
    """The models of one Ollama, for the one service whose job they are to do."""

    engine = "ollama"

    def __init__(
        self, url: str, job: Job, served: str, pinned: Pinned, *, also: Sequence[str] = (), pull_from: str = ""
    ) -> None:
        self.url = url.rstrip("/")
        self.pinned = pinned
        self.served = full_name(served)
        self.allowed = tuple(dict.fromkeys([self.served, *map(full_name, also)]))
        self._job: Job = job
        self._registry: Registry | None = registry_of(pull_from)
        # trust_env off: no proxy of the environment comes between.
        timeout = httpx.Timeout(_ASK_S, connect=_CONNECT_S)
        self.client = ollama.AsyncClient(host=url, timeout=timeout, trust_env=False)
        patient = httpx.Timeout(_LOAD_S, connect=_CONNECT_S)
        self._patient = ollama.AsyncClient(host=url, timeout=patient, trust_env=False)
        self._shown: dict[str, Shown] = {}  # by digest
        self._windows: dict[str, int] = {}  # by name

    @property
    def pull_from(self) -> str:
        """As the setting says."""
        return "" if self._registry is None else str(self._registry)

    async def installed(self) -> list[InstalledModel]:
        """See the port. What a model can do is asked once per digest."""
        async with self.errors(""):
            listed, running = await asyncio.gather(self.client.list(), self.client.ps())
            # By digest: of two names for one model Ollama says only the first.
            loaded = {entry.digest: _loaded(entry) for entry in running.models}
            found = []
            for entry in sorted(listed.models, key=lambda one: one.model or ""):
                name, digest = entry.model or "", entry.digest or ""
                try:
                    shown = await self.show(name, digest)
                except ollama.ResponseError as error:
                    # One broken model, or one that was just deleted, does not hide the others.
                    log.warning("model_not_shown", model=name, status=error.status_code)
                    shown = Shown((), 0)
                details = entry.details
                found.append(
                    InstalledModel(
                        name=name,
                        digest=digest,
                        size_bytes=int(entry.size or 0),
                        parameter_size=(details and details.parameter_size) or "",
                        quantization=(details and details.quantization_level) or "",
                        capabilities=shown.capabilities,
                        context_tokens=shown.context_tokens,
                        loaded=loaded.get(digest),
                        served=name == self.served,
                        allowed=name in self.allowed,
                        suitable=self._job in shown.capabilities,
                    )
                )
        return found

    async def show(self, name: str, digest: str) -> Shown:
        """What the model can do. Raises what Ollama's client raises."""
        if digest not in self._shown:
            shown = await self.client.show(name)
            numbers = {key.rpartition(".")[2]: value for key, value in (shown.modelinfo or {}).items()}
            self._shown[digest] = Shown(tuple(map(str, shown.capabilities or [])), int(numbers.get("context_length") or 0))
        return self._shown[digest]

    async def window(self, name: str) -> int:
        """Tokens that a request of the model has room for; asked once. Raises as `load` does."""
        if name not in self._windows:
            self._windows[name] = self.pinned.window((await self._find(name)).context_tokens)
        return self._windows[name]

    async def load(self, name: str = "") -> InstalledModel:
        """See the port. An empty request with the pinned options: Ollama loads and answers."""
        wanted = full_name(checked_name(name) or self.served)
        with span("ollama.load", {"ragkeep.model": wanted}):
            model = await self._find(wanted)
            if not model.suitable:
                raise self.unsuitable(wanted)
            # The very options of later requests.
            options = self.pinned.options(model.context_tokens)
            async with self.errors(wanted), asyncio.timeout(remaining(_LOAD_S)):
                keep_alive = keep_alive_of(self.pinned.keep_alive)
                if self._job == "embedding":
                    await self._patient.embed(model=wanted, input=[], keep_alive=keep_alive, options=options)
                else:
                    await self._patient.chat(model=wanted, messages=[], keep_alive=keep_alive, options=options)
        return await self._find(wanted)

    async def unload(self, name: str = "") -> InstalledModel:
        """See the port. Ollama answers before it is done, so its word is waited for."""
        wanted = full_name(checked_name(name) or self.served)
        with span("ollama.unload", {"ragkeep.model": wanted}):
            model = await self._find(wanted)
            if model.loaded is None:
                return model
            async with self.errors(wanted):
                await self.client.generate(model=wanted, keep_alive=0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_UNLOAD_S):
                        while any(entry.digest == model.digest for entry in (await self.client.ps()).models):  # noqa: ASYNC110
                            await asyncio.sleep(_POLL_S)
        return await self._find(wanted)

    async def pull(self, name: str) -> AsyncGenerator[PullProgress]:
        """See the port. The model gets its short name: what Ollama pulls from another registry it lists with the registry's."""
        if self._registry is None:
            raise PullNotAllowed(
                f"No registry is set that models may be pulled from. Set RAGKEEP_PULL_FROM of the {_SERVICES[self._job]}, "
                "or install the model beside ragkeep: ollama pull NAME, or ollama create NAME from a file."
            )
        reference, here = self._registry.reference(checked_name(name))
        log.info("pull_begins", model=here, registry=self.pull_from)
        parts: dict[str, tuple[int, int]] = {}
        with span("ollama.pull", {"ragkeep.model": here}):
            async with self._pull_errors(here):
                listed = self._registry.lists_as(reference)
                # Somebody may have pulled it under that name, and use it.
                passing = listed != here and all(entry.model != listed for entry in (await self.client.list()).models)
                stream = await self._patient.pull(reference, insecure=self._registry.plain, stream=True)
                async with contextlib.aclosing(stream) as events:  # type: ignore[type-var]
                    async for event in events:
                        if event.digest:
                            parts[event.digest] = (int(event.completed or 0), int(event.total or 0))
                        if (stage := _stage(event)) is not None:
                            yield _progress(stage, parts)
                if listed != here:
                    await self.client.copy(listed, here)
                if passing:
                    await self.client.delete(listed)
        log.info("pull_ended", model=here)
        yield _progress(PullStage.DONE, parts)

    async def close(self) -> None:
        """Lets go of the connections."""
        for client in (self.client, self._patient):
            with contextlib.suppress(Exception):
                await client._client.aclose()

    def unsuitable(self, name: str) -> ModelUnsuitable:
        """The model cannot do the service's job."""
        kind = {"embedding": "an embedding model", "completion": "a language model"}[self._job]
        return ModelUnsuitable(f"The model {name} does not {_VERBS[self._job]}. Set RAGKEEP_MODEL to {kind}.")

    async def _find(self, name: str) -> InstalledModel:
        for model in await self.installed():
            if model.name == name:
                return model
        raise not_installed(self.url, name)

    @contextlib.asynccontextmanager
    async def errors(self, name: str) -> AsyncIterator[None]:
        """Raises what a failed request about the model stands for."""
        try:
            yield
        except ollama.ResponseError as error:
            words = str(error.error)
            if "does not support" in words:
                raise self.unsuitable(name) from None
            raise self.failed(name, error.status_code, words) from None
        except (httpx.TimeoutException, TimeoutError) as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise unreachable(self.url) from None
            raise EngineFailed("Ollama did not answer in time.") from None
        except (httpx.HTTPError, ConnectionError):
            raise unreachable(self.url) from None
        except ValueError as error:  # no JSON, or JSON of another shape
            log.error("ollama_makes_no_sense", address=self.url, error=type(error).__name__)
            raise EngineFailed(f"What answers at {self.url} is no Ollama. RAGKEEP_OLLAMA_URL says where to look.") from None

    def failed(self, name: str, status: int, words: str) -> RagkeepError:
        """What an error that Ollama answers with stands for."""
        return failed(self.url, name, status, words, num_ctx=self.pinned.num_ctx, service=_SERVICES[self._job])

    @contextlib.asynccontextmanager
    async def _pull_errors(self, name: str) -> AsyncIterator[None]:
        async with self.errors(name):
            try:
                yield
            except ollama.ResponseError as error:
                words = str(error.error)
                log.error("pull_failed", model=name, engine_says=words[:300])
                if "no space left" in words:
                    raise StorageFull("The disk on which Ollama keeps its models is full.") from None
                if "does not exist" in words or "not found" in words or "manifest unknown" in words:
                    raise ModelUnknown(f"The registry {self.pull_from} does not have the model {name}.") from None
                raise RegistryFailed(
                    f"The registry {self.pull_from} cannot be reached or refuses; Ollama's words are in the "
                    f"{_SERVICES[self._job]}'s log. Repeating the pull goes on where it ended."
                ) from None


def _loaded(entry: Any) -> LoadedModel:
    until: datetime | None = entry.expires_at
    return LoadedModel(
        size_bytes=int(entry.size or 0),
        vram_bytes=int(entry.size_vram or 0),
        context_tokens=int(getattr(entry, "context_length", None) or 0),
        until=None if until is None or until.year >= _FOREVER_YEAR else until.astimezone(UTC),
    )


def _stage(event: Any) -> PullStage | None:
    """What Ollama's words stand for; None for what callers need not know, its own end included."""
    words = str(event.status or "")
    if event.digest:
        return PullStage.DOWNLOADING
    if words.startswith("pulling manifest"):
        return PullStage.MANIFEST
    return PullStage.VERIFYING if words.startswith(("verifying", "writing")) else None


def _progress(stage: PullStage, parts: dict[str, tuple[int, int]]) -> PullProgress:
    return PullProgress(stage, sum(done for done, _ in parts.values()), sum(total for _, total in parts.values()))
