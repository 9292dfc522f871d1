"""What the code says of its services: their settings, ports and names."""

from __future__ import annotations

from ragkeep_embedder.settings import Settings as EmbedderSettings
from ragkeep_gateway.settings import Settings as GatewaySettings
from ragkeep_generator.settings import Settings as GeneratorSettings
from ragkeep_retriever.settings import Settings as RetrieverSettings
from ragkeep_runtime.settings import ProcessSettings
from tests.k8s.manifests import SERVICES

SETTINGS: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "embedder": EmbedderSettings,
    "retriever": RetrieverSettings,
    "generator": GeneratorSettings,
}
TRUST_DOMAIN = str(ProcessSettings.model_fields["trust_domain"].default)
IDENTITIES = (*SERVICES, "weaviate")


def default_port(service: str, setting: str) -> int:
    """The port that a service's settings have by default."""
    return int(str(SETTINGS[service].model_fields[setting].default).rpartition(":")[2])
