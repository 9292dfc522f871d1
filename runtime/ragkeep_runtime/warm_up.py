"""The served model is in memory before readiness says so: the first question does not wait for it to load."""

from __future__ import annotations

import asyncio
import contextlib

from ragkeep_runtime.errors import EngineUnreachable, ModelBuiltIn, NotReady
from ragkeep_runtime.health import Check
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.model_library import ModelLibrary

log = get_logger()
# A check waits this long for a load that may take minutes; health gives a check five seconds.
_PATIENCE_S = 2.0
# A load that failed is not begun again at every check.
_AGAIN_S = 10.0


class WarmUp:
    """A readiness check: loads the model once, in the background, and from then on asks `then`."""

    def __init__(self, library: ModelLibrary, then: Check, *, patience_s: float = _PATIENCE_S) -> None:
        self._library = library
        self._then = then
        self._patience_s = patience_s
        self._task: asyncio.Task[None] | None = None
        self._warm = False
        self._failed: tuple[float, Exception] | None = None

    async def __call__(self) -> object:
        """Raises NotReady while the model is being loaded, and what loading it raised."""
        if not self._warm:
            await self._load()
        return await self._then()

    async def close(self) -> None:
        """Ends a load that is under way."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    async def _load(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._failed is not None and now - self._failed[0] < _AGAIN_S:
            raise self._failed[1]
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        await asyncio.wait({self._task}, timeout=self._patience_s)
        if not self._task.done():
            raise NotReady("The model is being loaded into memory.")
        task, self._task = self._task, None
        try:
            task.result()
        except Exception as error:
            # An engine that is away is asked again at once: that costs nothing, and it may be starting.
            self._failed = None if isinstance(error, EngineUnreachable) else (now, error)
            raise
        self._warm = True

    async def _work(self) -> None:
        began = asyncio.get_running_loop().time()
        try:
            model = await self._library.load()
        except ModelBuiltIn:
            return  # it is there since the process is
        log.info("model_loaded", model=model.name, duration_ms=round((asyncio.get_running_loop().time() - began) * 1000, 1))
