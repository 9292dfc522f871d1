"""The image's Dockerfile: linted by hadolint, and as the project is. What it installs is tried in tests/k8s/real/test_image.py."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.k8s.manifests import OVERLAYS, overlay, pod, workloads

pytestmark = pytest.mark.engine("hadolint")
DOCKERFILE = Path("deploy/image/Dockerfile")
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())


def test_hadolint_finds_nothing() -> None:
    """Its rules for Dockerfiles and the shell in them."""
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_it_ends_as_the_user_that_the_manifests_run() -> None:
    """Non-root, by number, the same in each pod."""
    (user,) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE.read_text(), re.MULTILINE)
    for name in OVERLAYS:
        for workload in workloads(overlay(name)):
            security = pod(workload)["securityContext"]
            assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user


def test_it_is_slim_and_of_two_stages() -> None:
    """A slim base of a Python that the project supports; the build's tools stay behind."""
    text = DOCKERFILE.read_text()
    (python,) = re.findall(r"^ARG BASE=python:(\d\.\d+)-slim", text, re.MULTILINE)
    assert tuple(map(int, python.split("."))) >= (3, 11)
    assert len(re.findall(r"^FROM \$\{BASE\}", text, re.MULTILINE)) == 2
    assert "apt-get" not in text


def test_its_extras_are_the_projects_and_all_that_is_built_is_copied() -> None:
    """The default is what the manifests run on; every package of the wheel is in the build, and let through by .dockerignore."""
    text = DOCKERFILE.read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert set(extras.split(",")) == {"ollama", "weaviate"}
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    assert copied == {package.split("/")[0] for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    let_through = Path(".dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} | {"!requirements.txt", "!pyproject.toml"} <= set(let_through)


def test_the_manifests_run_the_version_of_the_project() -> None:
    """Where ragkeep's own image is named, its tag is the version in pyproject.toml."""
    for name in OVERLAYS:
        tags = {
            one["image"].partition(":")[2]
            for workload in workloads(overlay(name))
            for one in pod(workload)["containers"]
            if one["image"].startswith("ragkeep:")
        }
        assert tags == {PROJECT["project"]["version"]}
