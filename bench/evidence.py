"""What the evidence threshold does on the sample: how many answerable questions are kept, how many others refused.

Starts ragkeep in a folder of its own, imports the sample tickets, asks every sample question through the gateway, and judges
each pair of thresholds by the scores that came back. `python bench/evidence.py --help`; options after `--` go to `ragkeep up`.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ragkeep_client import Client, Done, Evidence, Sources
from ragkeep_client.connect import connected
from ragkeep_gateway.evidence import MARGIN, MINIMUM_COVERAGE

ROOT = Path(__file__).parent.parent
RAGKEEP = Path(sys.executable).with_name("ragkeep")
COVERAGES = (0.3, 0.4, 0.5, 0.6, 0.7)
MARGINS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
DEFAULT = (MINIMUM_COVERAGE, MARGIN)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, what is right, and what came back."""

    question: str
    language: str
    ticket: str  # empty: the tickets do not answer
    found: tuple[str, ...]  # documents, best first
    coverage: float
    above: float | None  # best cosine minus background
    refused: bool  # with the default threshold, by scores or by the generator
    seconds: float  # until the sources were there

    def kept(self, coverage: float, margin: float) -> bool:
        """Whether these thresholds let it be answered."""
        return self.coverage >= coverage or self.above is None or self.above >= margin


async def ask(client: Client, row: dict[str, str]) -> Asked:
    """Asks twice: whatever is found, and as it is by default."""
    evidence: Evidence | None = None
    found: tuple[str, ...] = ()
    began, seconds = time.perf_counter(), 0.0
    async for event in client.ask(row["question"], minimum_coverage=0):
        if isinstance(event, Sources):
            seconds = time.perf_counter() - began
            evidence, found = event.evidence, tuple(source.document_id for source in event.sources)
    finish = [event.finish async for event in client.ask(row["question"]) if isinstance(event, Done)]
    if evidence is None:
        raise RuntimeError("the stream had no sources")
    measured = evidence.best_cosine is not None and evidence.background is not None
    above = (evidence.best_cosine or 0) - (evidence.background or 0) if measured else None
    refused = finish == ["no_evidence"]
    return Asked(row["question"], row["language"], row["ticket_id"], found, evidence.coverage, above, refused, seconds)


async def ask_all(data: Path) -> list[Asked]:
    """Every question of the sample, after one that warms up and measures the background."""
    with (ROOT / "examples/questions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    async with connected(data, "demo") as client:
        for text in ("warm up", "预热"):
            async for _ in client.ask(text):
                pass
        return [await ask(client, row) for row in rows]


def report(asked: list[Asked]) -> None:
    """The table of docs/evidence.md."""
    answerable, others = [one for one in asked if one.ticket], [one for one in asked if not one.ticket]
    first = sum(one.found[:1] == (one.ticket,) for one in answerable)
    five = sum(one.ticket in one.found[:5] for one in answerable)
    print(f"{len(answerable)} answerable questions, {len(others)} others")
    print(f"right ticket first: {first}, in the first five: {five}")
    print(f"by default answered: {sum(not one.refused for one in answerable)}, refused: {sum(one.refused for one in others)}")
    seconds = sorted(one.seconds for one in asked)
    print(f"until the sources: median {1000 * seconds[len(seconds) // 2]:.0f} ms\n")
    print("answered of the answerable / refused of the others, by scores alone")
    print("| coverage \\ margin | " + " | ".join(f"{margin:.2f}" for margin in MARGINS) + " |")
    print("|---|" + "---|" * len(MARGINS))
    for coverage in COVERAGES:
        cells = []
        for margin in MARGINS:
            kept = sum(one.kept(coverage, margin) for one in answerable)
            refused = sum(not one.kept(coverage, margin) for one in others)
            cells.append(f"**{kept} / {refused}**" if (coverage, margin) == DEFAULT else f"{kept} / {refused}")
        print(f"| {coverage} | " + " | ".join(cells) + " |")
    print("\nwrong by default:")
    for one in asked:
        if one.refused is bool(one.ticket):
            above = "–" if one.above is None else f"{one.above:+.3f}"
            print(f"  {one.ticket or 'none'}: coverage {one.coverage:.2f}, {above}: {one.question}")


def main() -> None:
    """Up, import, ask, down, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", type=int, default=51100)
    parser.add_argument("--health-ports", type=int, default=51200)
    parser.add_argument("--json", action="store_true", help="one line a question instead of the table")
    parser.add_argument("up", nargs="*", help="options of `ragkeep up`, after --")
    given = parser.parse_args()
    engines = given.up or ["--embedder", "e5", "--retriever", "sqlite", "--generator", "quote"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)

        def ragkeep(*arguments: str) -> None:
            subprocess.run([RAGKEEP, *arguments, "--data", folder], check=True, stdout=subprocess.DEVNULL)

        try:
            ports = ["--ports", str(given.ports), "--health-ports", str(given.health_ports)]
            ragkeep("up", "--detach", *ports, *engines)
            ragkeep("import", str(ROOT / "examples/service_tickets.csv"))
            asked = asyncio.run(ask_all(data))
        finally:
            ragkeep("down")
    if given.json:
        for one in asked:
            print(json.dumps(asdict(one), ensure_ascii=False))
    else:
        report(asked)


if __name__ == "__main__":
    main()
