"""What making follow-ups whole is worth on the sample: the right ticket with and without the question before.

Starts ragkeep in a folder of its own, imports the sample tickets and asks `examples/follow_ups.csv`; options after `--` go to
`ragkeep up`, so that a model's rewriting can be measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ragkeep_client import Client, Rewritten, Sources, Turn
from ragkeep_client.connect import connected

ROOT = Path(__file__).parent.parent
RAGKEEP = Path(sys.executable).with_name("ragkeep")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question after another one, and where its ticket came."""

    question: str
    searched: str
    by_model: bool
    alone: int  # place of the right ticket without the question before; 0: not among the first five
    whole: int  # with it


async def place(client: Client, question: str, ticket: str, history: list[Turn]) -> tuple[int, Rewritten | None]:
    """The right ticket's place, and what was searched for; nothing is refused."""
    found, rewritten = 0, None
    async for event in client.ask(question, history=history, minimum_coverage=0):
        if isinstance(event, Rewritten):
            rewritten = event
        elif isinstance(event, Sources):
            ids = [source.document_id for source in event.sources]
            found = ids.index(ticket) + 1 if ticket in ids else 0
            break
    return found, rewritten


async def ask_all(data: Path) -> list[Asked]:
    """Every pair of the file."""
    with (ROOT / "examples/follow_ups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    asked = []
    async with connected(data, "demo") as client:
        for row in rows:
            alone, _ = await place(client, row["question"], row["ticket_id"], [])
            whole, rewritten = await place(client, row["question"], row["ticket_id"], [Turn(row["earlier"])])
            text, model = (rewritten.question, rewritten.model) if rewritten else ("", "")
            asked.append(Asked(row["question"], text, bool(model), alone, whole))
    return asked


def main() -> None:
    """Up, import, ask, down, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", type=int, default=51300)
    parser.add_argument("--health-ports", type=int, default=51400)
    parser.add_argument("up", nargs="*", help="options of `ragkeep up`, after --")
    given = parser.parse_args()
    engines = given.up or ["--embedder", "e5", "--retriever", "sqlite", "--generator", "quote"]
    with tempfile.TemporaryDirectory() as folder:

        def ragkeep(*arguments: str) -> None:
            subprocess.run([RAGKEEP, *arguments, "--data", folder], check=True, stdout=subprocess.DEVNULL)

        try:
            ports = ["--ports", str(given.ports), "--health-ports", str(given.health_ports)]
            ragkeep("up", "--detach", *ports, *engines)
            ragkeep("import", str(ROOT / "examples/service_tickets.csv"))
            asked = asyncio.run(ask_all(Path(folder)))
        finally:
            ragkeep("down")
    changed = sum(one.searched != one.question for one in asked)
    by_model = sum(one.by_model for one in asked)
    print(f"{len(asked)} questions after another one; {changed} were made whole, {by_model} by a model")
    for name, places in (("alone", [one.alone for one in asked]), ("whole", [one.whole for one in asked])):
        print(f"{name}: right ticket first {places.count(1)}, in the first five {sum(0 < place <= 5 for place in places)}")
    for one in asked:
        print(f"  {one.alone or '–'} → {one.whole or '–'}  {one.question}  [{one.searched}]")


if __name__ == "__main__":
    main()
