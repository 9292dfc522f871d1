"""Waiting for the thing itself. Nothing here has a limit of its own: the test's time limit ends a wait that never ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from ragkeep_runtime.following import EVERY_S

T = TypeVar("T")
_PAUSE_S = 0.05


def until(condition: Callable[[], T]) -> T:
    """What it returns, once that is true."""
    while not (found := condition()):
        time.sleep(_PAUSE_S)
    return found


async def until_true(condition: Callable[[], T]) -> T:
    """The same, with the loop running meanwhile."""
    while not (found := condition()):
        await asyncio.sleep(_PAUSE_S)
    return found


async def until_comes(ask: Callable[[], Awaitable[T]]) -> T:
    """What the call brings, once that is true: it is made again and again."""
    while not (found := await ask()):
        await asyncio.sleep(_PAUSE_S)
    return found


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks until what was lost is found again."""
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(_PAUSE_S)


def events_of(log: str, event: str, **keys: object) -> list[dict[str, Any]]:
    """The lines of one event in what a process wrote, with these keys."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{") and f'"{event}"' in line]
    return [line for line in lines if line.get("event") == event and keys.items() <= line.items()]


def until_read_again() -> None:
    """After this the next call reads a changed file that is followed: a file is looked at by a call, EVERY_S after the last look."""
    time.sleep(EVERY_S + 0.1)


async def until_next_call_reads_again() -> None:
    """The same, with the loop running meanwhile."""
    await asyncio.sleep(EVERY_S + 0.1)
