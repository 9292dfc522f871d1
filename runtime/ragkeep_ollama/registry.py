"""The one registry that models are pulled from, as a setting names it, and names of models in it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from ragkeep_runtime.errors import PullNotAllowed

_SETTING = re.compile(r"(?:(https?)://)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?(?:/([a-z0-9][a-z0-9._-]*))?/?")
_NAME = re.compile(r"(?:([A-Za-z0-9][\w-]*)/)?([A-Za-z0-9][\w.-]*)(?::(\w[\w.-]*))?", re.ASCII)
# Ollama's own: names of models there stand for themselves.
_OLLAMA, _LIBRARY = "registry.ollama.ai", "library"


@dataclass(frozen=True, slots=True)
class Registry:
    """Where models come from."""

    host: str  # with its port
    namespace: str  # empty: library, or what a name says
    plain: bool  # HTTP without TLS; loopback alone

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}" if self.namespace else self.host

    def reference(self, name: str) -> tuple[str, str]:
        """(the model's name in the registry, the name it is to have here).

        Raises PullNotAllowed where the name is none, or asks for another registry or namespace.
        """
        match = _NAME.fullmatch(name)
        if match is None or (match[1] and self.namespace and match[1] != self.namespace):
            raise PullNotAllowed(
                f"Models are pulled from {self} alone (RAGKEEP_PULL_FROM): say name, name:tag or namespace/name:tag, "
                "without a registry or another namespace than the setting's.",
                field="model",
            )
        namespace, model, tag = match[1] or self.namespace or _LIBRARY, match[2], match[3] or "latest"
        here = f"{match[1]}/{model}:{tag}" if match[1] else f"{model}:{tag}"
        return f"{self.host}/{namespace}/{model}:{tag}", here

    def lists_as(self, reference: str) -> str:
        """How Ollama lists what it pulled under the name: without its own registry's host."""
        return reference.removeprefix(f"{_OLLAMA}/").removeprefix(f"{_LIBRARY}/") if self.host == _OLLAMA else reference


def registry_of(setting: str) -> Registry | None:
    """The registry that RAGKEEP_PULL_FROM names; None where it is empty. Raises ValueError, which says what is wrong."""
    text = setting.strip()
    if not text:
        return None
    match = _SETTING.fullmatch(text)
    if match is None:
        raise ValueError("must be host, host:port or host:port/namespace, e.g. registry.ollama.ai")
    plain = match[1] == "http"
    if plain and not _is_loopback(match[2].strip("[]")):
        raise ValueError("http:// is for registries on this machine alone; others need TLS")
    return Registry(match[2] + (match[3] or ""), match[4] or "", plain)


def _checked(setting: str) -> str:
    try:
        registry_of(setting)
    except ValueError as error:
        # Of its own kind: else "Value error" stands before the sentence.
        raise PydanticCustomError("registry", "{problem}", {"problem": str(error)}) from None
    return setting


# For settings: a wrong one is named before anything starts.
PullFrom = Annotated[str, AfterValidator(_checked)]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
