"""What being on record costs: the same gateway with its audit log and without, beside each other, paired call by call.

Two gateways in front of the same services, on the embedded engines. Each question goes to both, in turn first; so do searches,
alone and several at once (where calls share a sync). Then what one sync of this disk takes. `python -m bench.audit --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_runtime.channel import open_channel

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.stack import SECOND, Stack  # noqa: E402
from tests.tickets import SAMPLE  # noqa: E402

METADATA = (("ragkeep-tenant", "bench"),)
QUESTIONS = ("忘记密码了怎么办？", "VPN error 809 after an update", "打印机脱机", "Outlook shared mailbox is missing")
Call = Callable[[RagServiceStub, str], Awaitable[object]]


async def ask(rag: RagServiceStub, question: str) -> None:
    """Up to the sources: what the audit log is waited for."""
    call = rag.Ask(pb.AskRequest(question=question), metadata=METADATA)
    async for event in call:
        if event.WhichOneof("event") == "sources":
            break
    call.cancel()


async def search(rag: RagServiceStub, question: str) -> None:
    """By words and meaning."""
    await rag.Search(pb.SearchRequest(query=question), metadata=METADATA)


async def keyword(rag: RagServiceStub, question: str) -> None:
    """By words alone: the cheapest call that shows documents."""
    await rag.Search(pb.SearchRequest(query=question, mode=pb.SEARCH_MODE_KEYWORD), metadata=METADATA)


async def paired(
    with_log: RagServiceStub, without: RagServiceStub, call: Call, rounds: int, at_once: int
) -> tuple[list[float], ...]:
    """Seconds a call on both, a pair a round; `at_once` calls together, whose time is divided by their number."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 3):
        question = QUESTIONS[number % len(QUESTIONS)]
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            began = time.perf_counter()
            await asyncio.gather(*(call((with_log, without)[which], question) for _ in range(at_once)))
            if number >= 3:
                taken[which].append((time.perf_counter() - began) / at_once)
    return taken


def a_sync(folder: Path) -> float:
    """Seconds that one line and its sync take on this disk, the median of many."""
    taken = []
    with (folder / "probe").open("ab", buffering=0) as file:
        for _ in range(300):
            began = time.perf_counter()
            file.write(b"x" * 500)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def measure(folder: Path, rounds: int) -> None:
    """Starts both, measures, prints a table."""
    stack = Stack(folder)
    try:
        stack.start()
        stack.env["gateway"] = {"RAGKEEP_AUDIT_FOLDER": ""}
        stack.start(SECOND)
        async with (
            open_channel(stack.target("gateway"), "gateway", stack.cli) as one,
            open_channel(stack.target(SECOND), "gateway", stack.cli) as other,
        ):
            with_log, without = RagServiceStub(one), RagServiceStub(other)
            await with_log.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=METADATA)
            print(f"one line of 500 bytes and its sync: {1000 * a_sync(folder):.2f} ms")
            print("| | without, ms | with, ms | ratio of the pairs | more, ms |")
            print("|---|---|---|---|---|")
            for name, call, at_once in (
                ("sources of an Ask", ask, 1),
                ("Search", search, 1),
                ("Search by words", keyword, 1),
                ("Search by words, 16 at once", keyword, 16),
            ):
                recorded, plain = await paired(with_log, without, call, rounds, at_once)
                pairs = list(zip(recorded, plain, strict=True))
                ratio = statistics.median(a / b for a, b in pairs)
                more = 1000 * statistics.median(a - b for a, b in pairs)
                row = (1000 * statistics.median(plain), 1000 * statistics.median(recorded))
                print(f"| {name} | {row[0]:.2f} | {row[1]:.2f} | {ratio:.3f} | {more:.2f} |", flush=True)
    finally:
        stack.stop()


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="pairs of each kind of call (200)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.rounds))


if __name__ == "__main__":
    main()
