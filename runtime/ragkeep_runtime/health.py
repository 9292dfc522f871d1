"""Liveness, readiness and metrics on a plain HTTP port: for probes and Prometheus. No tenant, caller or text is on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from ragkeep_runtime.errors import RagkeepError
from ragkeep_runtime.logs import get_logger

log = get_logger()
Check = Callable[[], Awaitable[object]]
# How often the checks run while all is well, and while something is missing, in seconds.
_WELL_S, _MISSING_S = 10.0, 1.0


class Health:
    """What the process says of itself. `/livez`: the event loop turns. `/readyz`: it takes calls and its engine answers."""

    def __init__(self, checks: list[Check], metrics: Callable[[], bytes]) -> None:
        self.draining = False
        self._metrics = metrics
        self._checks = checks
        self._missing: dict[str, str] = {"STARTING": "The first check has not ended yet."}
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listens. Raises OSError where the address is taken."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_port=False).start()
        self._tasks.append(asyncio.create_task(self._watch()))

    async def close(self) -> None:
        """Stops listening."""
        for task in self._tasks:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _watch(self) -> None:
        while True:
            missing: dict[str, str] = {}
            for check in self._checks:
                try:
                    async with asyncio.timeout(5):
                        await check()
                except RagkeepError as error:
                    missing[error.reason] = error.message
                except TimeoutError:
                    missing["ENGINE_UNREACHABLE"] = "The engine did not answer within 5 seconds."
                except Exception:
                    log.exception("readiness_check_failed")
                    missing["INTERNAL"] = "The check itself failed; see the log."
            if missing.keys() != self._missing.keys():
                log.info("readiness_changed", missing=sorted(missing))
            self._missing = missing
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(_MISSING_S if missing else _WELL_S)
                continue
            return

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        # Prometheus' text format, whatever is asked for.
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        missing = {"DRAINING": "The process is shutting down."} if self.draining else self._missing
        return web.json_response({"ready": not missing, "missing": missing}, status=503 if missing else 200)
