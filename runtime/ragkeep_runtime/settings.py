"""What every process is told: addresses, identity, logs and telemetry. Each value comes from one environment variable."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ragkeep_runtime.tls import Identity


class ProcessSettings(BaseSettings):
    """Settings that all four processes share; a service's own class adds to them. Secrets are paths of files."""

    model_config = SettingsConfigDict(env_prefix="RAGKEEP_", extra="ignore", frozen=True)

    listen: str = Field("127.0.0.1:0", description="Address of the gRPC server (mutual TLS), host:port.")
    health_listen: str = Field("127.0.0.1:0", description="Address of the plain HTTP health port, host:port.")
    tls_cert: Path = Field(description="PEM file of this process's certificate.")
    tls_key: Path = Field(description="PEM file of its private key.")
    tls_ca: Path = Field(description="PEM file of the authorities that peers' certificates must come from.")
    trust_domain: str = Field("ragkeep.internal", description="Trust domain of every SPIFFE id and DNS name.")
    policy_file: Path | None = Field(None, description="JSON file that says which callers have which tenants and roles.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    otlp_endpoint: str = Field("", description="Collector for traces (OTLP over gRPC), http(s)://host:port. Empty: none.")
    otlp_ca: Path | None = Field(
        None,
        description="PEM file of the authorities of the collector's certificate. Default: RAGKEEP_TLS_CA.",
    )
    drain_s: float = Field(30.0, ge=0, le=330, description="Seconds that calls in flight may take after a stop signal.")

    @property
    def identity(self) -> Identity:
        """The files that say who this process is."""
        return Identity(self.tls_cert, self.tls_key, self.tls_ca)

    @property
    def identity_to_collector(self) -> Identity:
        """The same, before a collector of the site: its authority is trusted for traces, and for nothing else."""
        return Identity(self.tls_cert, self.tls_key, self.otlp_ca or self.tls_ca)


S = TypeVar("S", bound=ProcessSettings)


def read_settings(cls: type[S]) -> S:
    """The settings from the environment. Names every wrong one on stderr and exits with 2."""
    try:
        return cls()  # type: ignore[call-arg]  # the environment is the only source
    except ValidationError as error:
        for problem in error.errors():
            name = "RAGKEEP_" + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"{name}: {problem['msg']}", file=sys.stderr)
        raise SystemExit(2) from None


def problems_of(cls: type[ProcessSettings], values: Mapping[str, str]) -> list[tuple[str, str]]:
    """(setting, what is wrong with it) of the values that a process would be started with. No environment is read."""
    try:
        _given(cls)(**values)
    except ValidationError as error:
        return [(str(problem["loc"][0]), problem["msg"]) for problem in error.errors()]
    return []


@functools.cache
def _given(cls: type[ProcessSettings]) -> Callable[..., ProcessSettings]:
    class Given(cls):  # type: ignore[valid-type, misc]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)

    return Given
