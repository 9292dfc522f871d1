"""The checks that look for what should not be there find it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import vulnerabilities

BIN = Path(sys.executable).parent
# In pieces, so that they are none here.
PLANTED = {
    "key.pem": "-----BEGIN " + "PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n",
    "aws.py": 'key = "AKIA' + 'J7Q2XWZR4LPT6NVB"\n',
    "token.md": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiJhbm5hIiwidGVuYW50IjoiYSJ9" + ".c2lnbmF0dXJlLW9mLXRoaXMtdG9rZW4\n",
    "settings.yaml": "password: " + "hX9!vRt2qLmZ\n",
}


def scanned(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`make secrets` with files of one's own."""
    return subprocess.run([sys.executable, "scripts/secret_scan.py", *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_secret_is_found(tmp_path: Path, name: str) -> None:
    """By file and line, and never shown; what is no secret in the same place is none."""
    (tmp_path / name).write_text(f"# a file\n{PLANTED[name]}")
    ran = scanned(str(tmp_path / name))
    assert ran.returncode == 1
    assert f"{name}:2" in ran.stderr
    assert PLANTED[name].split()[-1][-12:] not in ran.stdout + ran.stderr
    (tmp_path / name).write_text("# a file\nnothing: here\n")
    assert scanned(str(tmp_path / name)).returncode == 0


def test_a_manifest_that_names_a_secret_holds_none(tmp_path: Path) -> None:
    """Kubernetes calls its objects so."""
    (tmp_path / "pod.yaml").write_text("volumes:\n- secret: {}\n- secretName: gateway-tls\n")
    assert scanned(str(tmp_path / "pod.yaml")).returncode == 0


def test_what_is_accepted_names_files_of_the_tree_and_holds_no_secret() -> None:
    """Relative ones that are there, with hashes."""
    for name, _, hashed in json.loads(Path(".secrets.json").read_text()):
        assert Path(name).is_file()
        assert not Path(name).is_absolute()
        assert re.fullmatch(r"[0-9a-f]{40}", hashed)


def test_bandit_finds_a_planted_fault(tmp_path: Path) -> None:
    """With the settings of `make bandit`."""
    (tmp_path / "bad.py").write_text("import tarfile\ntarfile.open('a.tar').extractall('/srv')\n")
    ran = subprocess.run(
        [str(BIN / "bandit"), "-q", "-c", "pyproject.toml", str(tmp_path / "bad.py")], capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert "B202" in ran.stdout
    (tmp_path / "bad.py").write_text("print('good')\n")
    ran = subprocess.run(
        [str(BIN / "bandit"), "-q", "-c", "pyproject.toml", str(tmp_path / "bad.py")], capture_output=True, text=True
    )
    assert ran.returncode == 0


def test_what_bandit_skips_ruff_knows() -> None:
    """Under the same numbers, and ruff's S rules are on."""
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]
    ran = subprocess.run(
        [str(BIN / "ruff"), "rule", "--all", "--output-format", "json"], capture_output=True, text=True, check=True
    )
    known = {rule["code"] for rule in json.loads(ran.stdout)}
    assert {f"S{number[1:]}" for number in settings["bandit"]["skips"]} <= known
    assert "S" in settings["ruff"]["lint"]["select"]


class Advisories:
    """An OSV service on loopback; `bad` are names with a vulnerability."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
                known = {"id": "OSV-1", "summary": "planted", "affected": [], "published": "2026-01-01T00:00:00Z"}
                body = json.dumps({"vulns": [known]} if asked in service.bad else {}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/query"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    """One that answers."""
    found = Advisories()
    yield found
    found.server.shutdown()
    found.server.server_close()


def audited(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """`make vulnerabilities` for two pins."""
    (folder / "pins.txt").write_text("grpcio==1.79.0\nPyYAML==6.0.3\n")
    command = [sys.executable, "scripts/vulnerabilities.py", url, "--pins", str(folder / "pins.txt")]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_known_vulnerability_fails(tmp_path: Path, advisories: Advisories) -> None:
    """Named with its version; without one all is well."""
    ran = audited(tmp_path, advisories.url)
    assert (ran.returncode, ran.stdout) == (0, "2 pins looked up, no vulnerability known.\n"), ran.stderr
    advisories.bad = {"grpcio"}
    ran = audited(tmp_path, advisories.url)
    assert ran.returncode == 1
    assert "grpcio 1.79.0: OSV-1" in ran.stderr


def test_where_nobody_can_be_asked_it_fails_and_says_so(tmp_path: Path) -> None:
    """It never passes in silence."""
    ran = audited(tmp_path, "http://127.0.0.1:9/v1/query")
    assert ran.returncode == 2
    assert vulnerabilities.NOTHING_KNOWN in ran.stderr
    assert "no vulnerability known" not in ran.stdout


def test_every_pin_is_asked_for() -> None:
    """Those for every platform, by their normal names."""
    pins = vulnerabilities.pinned(list(vulnerabilities.PINS))
    assert {"grpcio", "cryptography", "hatchling", "pytest"} <= pins
    assert len(pins) > 80
