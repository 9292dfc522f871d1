"""A service's own process that says in its log when a handler is entered: for proof that none is.

`python -m tests.marked gateway` runs the gateway's composition root, each of whose handlers is wrapped.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.process import Server, run

ENTERED = "handler_entered"


def _marked(handler: Callable[..., Any], path: str) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def stream(self: object, request: object, context: object) -> Any:
            get_logger().info(ENTERED, method=path)
            async for message in handler(self, request, context):
                yield message

        return stream

    @functools.wraps(handler)
    async def coroutine(self: object, request: object, context: object) -> Any:
        get_logger().info(ENTERED, method=path)
        return await handler(self, request, context)

    return coroutine


def main(service: str) -> None:
    """Runs it until a signal ends it."""
    own = importlib.import_module(f"ragkeep_{service}.main")
    settings = importlib.import_module(f"ragkeep_{service}.settings").Settings

    async def build(given: Any, server: Server) -> None:
        add = server.add

        def add_marked(descriptor: ServiceDescriptor, register: Callable[[Any, Any], None], servicer: object) -> None:
            kind = type(servicer)
            marked = {
                method.name: _marked(getattr(kind, method.name), f"/{descriptor.full_name}/{method.name}")
                for method in descriptor.methods
            }
            servicer.__class__ = type(kind.__name__, (kind,), marked)
            add(descriptor, register, servicer)

        server.add = add_marked  # type: ignore[method-assign]
        await own.build(given, server)

    run(service, settings, build)


if __name__ == "__main__":
    main(sys.argv[1])
