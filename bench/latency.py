"""How long a warm question and a warm search take through all four processes, beside the engines alone, interleaved in one run.

Starts ragkeep on the embedded engines in a folder of its own, imports the sample tickets, and for each sample question in turn:
asks, searches, and does with the adapters in this process what the two engines do for it (one embedding, one hybrid search of
the same store). `python bench/latency.py --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ragkeep_client import Client, Delta, Sources
from ragkeep_client.connect import connected
from ragkeep_embedder.e5 import E5Embedder
from ragkeep_embedder.embedder import Purpose
from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.values import Query, Scope

ROOT = Path(__file__).parent.parent
RAGKEEP = Path(sys.executable).with_name("ragkeep")
TENANT, COLLECTION = "demo", "service-tickets"
NAMES = ("sources of an ask", "first sourced word", "whole answer", "search", "engines alone")


async def ask(client: Client, question: str) -> tuple[float, float, float]:
    """Seconds until the sources, the first word and the end."""
    began, sources, first = time.perf_counter(), 0.0, 0.0
    async for event in client.ask(question, minimum_coverage=0):
        if isinstance(event, Sources):
            sources = time.perf_counter() - began
        elif isinstance(event, Delta) and not first:
            first = time.perf_counter() - began
    return sources, first, time.perf_counter() - began


async def measure(data: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds by name, a value a question and round; what is warm is measured, never the first of anything."""
    with (ROOT / "examples/questions.csv").open(newline="") as file:
        questions = [row["question"] for row in csv.DictReader(file) if row["ticket_id"]]
    embedder, store = E5Embedder(document_threads=1), SqliteStore(data / "store")
    taken: dict[str, list[float]] = {name: [] for name in NAMES}
    try:
        collection = await store.collection(COLLECTION)
        async with connected(data, TENANT) as client:
            for number in range(rounds + 1):
                for question in questions if number else questions[:3]:
                    values = list(await ask(client, question))
                    began = time.perf_counter()
                    await client.search(question, limit=5)
                    values.append(time.perf_counter() - began)
                    began = time.perf_counter()
                    (vector,) = await embedder.embed([question], Purpose.QUERY)
                    await store.search(Scope(TENANT, None), collection, Query(text=question, vector=vector, limit=5))
                    values.append(time.perf_counter() - began)
                    if number:
                        for name, value in zip(NAMES, values, strict=True):
                            taken[name].append(1000 * value)
    finally:
        await embedder.close()
        await store.close()
    return taken


def report(taken: dict[str, list[float]]) -> None:
    """Medians with their spread, and each as a multiple of what the engines alone take for the same question."""
    alone = taken["engines alone"]
    print(f"{len(alone)} questions")
    print("| | median ms | 10 % to 90 % | times the engines alone |")
    print("|---|---|---|---|")
    for name, values in taken.items():
        spread = statistics.quantiles(values, n=10)
        ratio = statistics.median(value / engine for value, engine in zip(values, alone, strict=True))
        print(f"| {name} | {statistics.median(values):.0f} | {spread[0]:.0f} to {spread[-1]:.0f} | {ratio:.2f} |")


def main() -> None:
    """Up, import, measure, down, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", type=int, default=50261)
    parser.add_argument("--health-ports", type=int, default=50271)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def ragkeep(*arguments: str) -> None:
            subprocess.run([RAGKEEP, *arguments, "--data", folder], check=True, stdout=subprocess.DEVNULL)

        try:
            ports = ["--ports", str(given.ports), "--health-ports", str(given.health_ports)]
            ragkeep("up", "--detach", *ports, "--embedder", "e5", "--retriever", "sqlite", "--generator", "quote")
            ragkeep("import", str(ROOT / "examples/service_tickets.csv"))
            taken = asyncio.run(measure(Path(folder), given.rounds))
        finally:
            ragkeep("down")
    report(taken)


if __name__ == "__main__":
    main()
