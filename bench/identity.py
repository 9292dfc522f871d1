"""What it costs a call to be somebody's: each link of the identity chain alone, in microseconds, and all of it, interleaved.

The chain is the server's edge without a transport: span, peer, access rule, policy, token, deadline, the line in the log. The
certificate's name is read from a context like gRPC's; the handshake is not measured (it is once a connection).
`python -m bench.identity --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_gateway.people import People, keys_of, secret_of
from ragkeep_runtime.access import AccessTable, peer_name, rules_of
from ragkeep_runtime.edge import Edge
from ragkeep_runtime.following import FollowedFile
from ragkeep_runtime.policy import Policy
from tests.tokens import AUDIENCE, ISSUER, Issuer

METHOD, PEER = "/ragkeep.gateway.v1.RagService/Search", "caller/clinic/portal"
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")


class Context:
    """As much of gRPC's as the chain reads."""

    def auth_context(self) -> dict[str, list[bytes]]:
        """What core gives for a certificate with one URI."""
        return {"transport_security_type": [b"ssl"], "peer_uri": [f"spiffe://ragkeep.internal/{PEER}".encode()]}


def policy(folder: Path) -> FollowedFile[Policy]:
    """A file with a hundred callers."""
    grant = {"tenants": ["demo"], "roles": ["reader"], "groups": ["a", "b"]}
    callers = {PEER: grant} | {f"caller/clinic/app{number}": grant for number in range(99)}
    (folder / "policy.json").write_text(json.dumps({"callers": callers}))
    return FollowedFile(folder / "policy.json", Policy.parse, what="policy")


def links(folder: Path) -> dict[str, Callable[[], Awaitable[object]]]:
    """What is measured, by name."""
    rules, known = rules_of([gateway_pb2.DESCRIPTOR.services_by_name["RagService"]]), policy(folder)
    context: Any = Context()
    found: dict[str, Callable[[], Awaitable[object]]] = {}

    def plain(function: Callable[[], object]) -> Callable[[], Awaitable[object]]:
        async def run() -> object:
            return function()

        return run

    def whole(edge: Edge, metadata: dict[str, str]) -> Callable[[], Awaitable[object]]:
        async def run() -> object:
            async with edge.admitted(METHOD, metadata, peer=lambda: peer_name(context, "ragkeep.internal")):
                return None

        return run

    table = AccessTable(rules, known)
    found["nothing"] = plain(lambda: None)
    found["the certificate's name"] = plain(lambda: peer_name(context, "ragkeep.internal"))
    found["rule and policy, a service"] = plain(lambda: table.admit(METHOD, PEER, {}))
    found["whole chain, a service"] = whole(Edge(table, "ragkeep.internal"), {})
    for algorithm in ALGORITHMS:
        issuer = Issuer(algorithm)
        issuer.write(folder / algorithm)
        keys = FollowedFile(folder / algorithm, secret_of if algorithm == "HS256" else keys_of, what=algorithm)
        people, token = People(keys, issuer=ISSUER, audience=AUDIENCE), issuer.token(groups=["a", "b"])
        found[f"token, {algorithm}"] = plain(lambda people=people, token=token: people.verify(token))  # type: ignore[misc]
        with_people = Edge(AccessTable(rules, known, people.verify), "ragkeep.internal")
        found[f"whole chain, a person, {algorithm}"] = whole(with_people, {"authorization": f"Bearer {token}"})
    return found


async def measure(found: dict[str, Callable[[], Awaitable[object]]], rounds: int, calls: int) -> dict[str, list[float]]:
    """Microseconds a call, by name, one value a round; every round measures each."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, run in found.items():
            began = time.perf_counter()
            for _ in range(calls):
                await run()
            if number:  # the first warms up
                taken[name].append((time.perf_counter() - began) / calls * 1e6)
    return taken


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=200, help="calls of each in a round")
    arguments = parser.parse_args()
    # The line of a call is written, but not onto this screen.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(io.StringIO()), processors=[structlog.processors.JSONRenderer()]
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        taken = asyncio.run(measure(links(Path(folder)), arguments.rounds, arguments.calls))
        for name, values in taken.items():
            low, *_, high = statistics.quantiles(values, n=20)
            print(f"{name:36} {statistics.median(values):8.1f} µs   ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
