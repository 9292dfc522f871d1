"""The client's public surface: a name that goes away breaks callers, so it is pinned here."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ragkeep_client

PUBLIC = {
    "AllOf", "AnyOf", "AuditEntry", "AuditFault", "AuditHead", "AuditProgress", "AuditVerdict", "ReplicaUnreachable", "Change", "Citation", "Client", "Collection", "DeletedTenant", "Delta", "Document", "Done", "Embeddings", "Equals", "Event", "Evidence",
    "Field", "FieldValue", "Filter", "FilterSyntaxError", "Identity", "InstalledModel", "Keyword", "LoadedModel", "NoneOf", "OneOf", "Outcome", "RagkeepError", "Range",
    "PullProgress", "Quotas", "Rewritten", "Rotation", "Schema", "Scores", "Sealed", "Search", "ServiceModels", "Source", "Sources", "Status", "StoredDocument", "Tenant", "TenantList", "Turn", "Usage", "parse_filter", "write_filter",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    """Nothing is missing, nothing was added by accident."""
    assert set(ragkeep_client.__all__) == PUBLIC == set(dir(ragkeep_client))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_there(name: str) -> None:
    """Names are found on first use."""
    assert getattr(ragkeep_client, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = ragkeep_client.Nothing


def test_the_command_starts_without_grpc() -> None:
    """Saying the version or a wrong option must not take the time to import gRPC, cryptography or an engine."""
    code = (
        "import sys, ragkeep_client.command; "
        "print([name for name in ('grpc', 'google', 'cryptography', 'aiohttp', 'pydantic', 'rich.progress', "
        "'ollama', 'weaviate') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
