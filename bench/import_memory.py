"""What `ragkeep import` needs in memory, by the number of rows: the same file a thousand times longer, side by side.

    python bench/import_memory.py [--rows 1000000] [--ports 53300] [--health-ports 53400]

Starts an installation of its own with the embedded engines and imports with --dry-run: every row goes the whole way to the
gateway and the store and back but for embedding, which would take hours. Peaks are the command's resident memory as the system
counts it; the floor is that of a file of one row. The services' peaks are shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RAGKEEP = str(Path(sys.executable).with_name("ragkeep"))
HEADER = "ticket_id,title,description,solution,category\n"


def write(path: Path, rows: int) -> None:
    """Helpdesk tickets of about 130 bytes."""
    with path.open("w") as out:
        out.write(HEADER)
        for n in range(rows):
            out.write(f"T-{n},Printer {n} is offline,The printer in room {n % 977} does not print,Restart it {n},Printing\n")


def measure(path: Path, data: Path) -> tuple[float, float]:
    """(peak in MiB, rows a second) of one import."""
    began = time.monotonic()
    command = [RAGKEEP, "import", str(path), "--dry-run", "--json", "--data", str(data)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = running.stdout.read()
    _, status, usage = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"The import failed: {out}")
    rows = next(line["imported"]["rows"] for line in map(json.loads, out.splitlines()) if "imported" in line)
    return usage.ru_maxrss / 1024, rows / (time.monotonic() - began)


def services(data: Path) -> dict[str, float]:
    """The peak of each service in MiB, where the system tells."""
    found = {}
    for name, one in json.loads((data / "state.json").read_text())["services"].items():
        status = Path(f"/proc/{one['pid']}/status")
        for line in status.read_text().splitlines() if status.exists() else []:
            if line.startswith("VmHWM"):
                found[name] = int(line.split()[1]) / 1024
    return found


def main() -> None:
    """Prints a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--ports", default="53300")
    arguments.add_argument("--health-ports", default="53400")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        engines = ["--embedder", "e5", "--retriever", "sqlite", "--generator", "quote"]
        up = [RAGKEEP, "up", "--detach", "--data", str(data), "--ports", chosen.ports, "--health-ports", chosen.health_ports]
        subprocess.run([*up, *engines], check=True, stdout=subprocess.DEVNULL)
        try:
            peaks = {}
            for rows in (1, 1_000, chosen.rows):
                path = Path(folder) / f"{rows}.csv"
                write(path, rows)
                peaks[rows], rate = measure(path, data)
                print(
                    f"{rows:>9,} rows  {path.stat().st_size / 2**20:8.1f} MiB  peak {peaks[rows]:6.1f} MiB  {rate:7,.0f} rows/s"
                )
                print("           services: " + ", ".join(f"{name} {peak:.0f} MiB" for name, peak in services(data).items()))
            floor, thousand, many = peaks.values()
            print(f"{many / thousand:.2f} times the memory of a thousand rows (the issue allows 1.15)")
            print(f"floor {floor:.1f} MiB; beyond it {thousand - floor:.1f} MiB for a thousand, {many - floor:.1f} MiB for all")
        finally:
            subprocess.run([RAGKEEP, "down", "--data", str(data)], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
