"""Looks for secrets in the tree, offline: what is neither in `.secrets.json` nor marked on its line fails.

`scripts/secret_scan.py [FILE ...]` checks the files of the tree, or these. `--accept` writes what is found to `.secrets.json`:
by file, kind and hash, never the secret itself. A line that holds `pragma: allowlist secret` in a comment is left alone.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.settings import transient_settings

KNOWN = Path(".secrets.json")
# Made by tools: stubs, hashes of packages, and the file of what is known.
_LEFT_OUT = re.compile(r"^protos/.*_pb2(_grpc)?\.pyi?$|requirements[^/]*\.txt$|^\.secrets\.json$")
_FILTERS = "detect_secrets.filters."
_SETTINGS = {
    # An address is no secret.
    "plugins_used": [
        {"name": one.__name__} for one in get_mapping_from_secret_type_to_class().values() if one.__name__ != "IPPublicDetector"
    ],
    # Not among them: asking a service whether a key is in use.
    "filters_used": [
        {"path": f"{_FILTERS}{one}"}
        for one in (
            "allowlist.is_line_allowlisted",
            "heuristic.is_indirect_reference",
            "heuristic.is_likely_id_string",
            "heuristic.is_lock_file",
            "heuristic.is_not_alphanumeric_string",
            "heuristic.is_potential_uuid",
            "heuristic.is_prefixed_with_dollar_sign",
            "heuristic.is_sequential_string",
            "heuristic.is_swagger_file",
            "heuristic.is_templated_secret",
        )
    ]
    # A manifest names a Secret, it does not hold one.
    + [{"path": f"{_FILTERS}regex.should_exclude_line", "pattern": [r"secretName:|secret_name|SecretRef:"]}],
}


def files_of_the_tree() -> list[str]:
    """Tracked ones, and those that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [name for name in listed.split("\0") if name and not _LEFT_OUT.search(name) and Path(name).is_file()]


def found_in(files: list[str]) -> list[tuple[str, str, str, int]]:
    """(file, kind, hash, line) of each, in order."""
    with transient_settings(_SETTINGS):
        secrets = SecretsCollection()
        secrets.scan_files(*files)
        return sorted((name, one.type, one.secret_hash, one.line_number) for name, one in secrets)


def main() -> int:
    """0 where there is nothing new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--accept", action="store_true", help="write what is found to .secrets.json")
    given = parser.parse_args()
    files = given.files or files_of_the_tree()
    if not files:
        print("There is no file to look at: this is no git work tree.", file=sys.stderr)
        return 2
    found = found_in(files)
    if given.accept:
        known = sorted({(name, kind, hashed) for name, kind, hashed, _ in found})
        KNOWN.write_text("[\n" + ",\n".join(f"  {json.dumps(one)}" for one in known) + "\n]\n")
        print(f"{len(known)} places in {KNOWN}")
        return 0
    accepted = {tuple(one) for one in json.loads(KNOWN.read_text())} if KNOWN.exists() else set()
    new = [one for one in found if one[:3] not in accepted]
    for name, kind, _, line in new:
        print(f"{name}:{line}: {kind}", file=sys.stderr)
    if new:
        print(
            "Take the secret out and replace it where it is used: whoever has the repository has it. What is none is marked on "
            f"its line with `pragma: allowlist secret`, or accepted with `make secrets-accept` ({KNOWN}).",
            file=sys.stderr,
        )
        return 1
    print(f"No secret in {len(files)} files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
