"""Are there known vulnerabilities in what is pinned? pip-audit asks; this makes sure that it was answered.

`scripts/vulnerabilities.py [URL]` asks the advisories of the Python Package Index, or an OSV service at URL (its query
address). Exit code 0: every pin was looked up and none is known; 1: some are; 2: nobody could be asked, so nothing is known.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

PINS = (Path("requirements.txt"), Path("requirements-dev.txt"), Path("deploy/image/build-requirements.txt"))
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==[^\s;\\]+(\s*;)?", re.MULTILINE)
NOTHING_KNOWN = (
    "Nothing is known: no source of advisories answered for every pin. Run this where one can be reached, or name an OSV "
    "service of your site: make vulnerabilities ADVISORIES=https://osv.example.internal/v1/query"
)


def pinned(files: list[Path]) -> set[str]:
    """Names that are pinned for every platform."""
    found = {match[1] for file in files for match in _PIN.finditer(file.read_text()) if not match[2]}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", help="an OSV service's query address")
    parser.add_argument("--pins", type=Path, action="append", help="requirements files; by default all that are kept here")
    given = parser.parse_args()
    files = given.pins or list(PINS)
    command = [str(Path(sys.executable).with_name("pip-audit")), "--strict", "--no-deps", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "15"]
    for file in files:
        command += ["--requirement", str(file)]
    if given.url:
        command += ["--vulnerability-service", "osv", "--osv-url", given.url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    try:
        audited = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = next(iter(reversed([line for line in ran.stderr.splitlines() if line.strip()])), "")
        print(f"{last[:500]}\n{NOTHING_KNOWN}", file=sys.stderr)
        return 2
    looked_up = {one["name"].lower() for one in audited if "vulns" in one}
    if missing := sorted(pinned(files) - looked_up):
        print(f"Not looked up: {', '.join(missing)}\n{NOTHING_KNOWN}", file=sys.stderr)
        return 2
    bad = [(one, vulnerability) for one in audited for vulnerability in one["vulns"]]
    for one, vulnerability in bad:
        mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {vulnerability['id']}, mended in {mended}", file=sys.stderr)
    if bad:
        return 1
    if ran.returncode:
        print(f"{ran.stderr[-500:]}\n{NOTHING_KNOWN}", file=sys.stderr)
        return 2
    print(f"{len(looked_up)} pins looked up, no vulnerability known.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
