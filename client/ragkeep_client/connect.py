"""The command's own connection to the gateway of a data folder."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from ragkeep_client.certificates import CLI_FILE, Certificates
from ragkeep_client.client import Client
from ragkeep_client.folder import DataFolder
from ragkeep_client.output import CommandError
from ragkeep_runtime.tls import Identity


@asynccontextmanager
async def connected(data: Path, tenant: str) -> AsyncGenerator[Client]:
    """A client for the tenant. Raises CommandError where nothing was started with the folder."""
    folder = DataFolder(data)
    target = folder.gateway()
    certificates = Certificates(folder.certificates)
    cert, key = certificates.files(CLI_FILE)
    try:
        client = Client(target, Identity(cert, key, certificates.ca), tenant=tenant)
    except (OSError, ssl.SSLError) as error:
        raise CommandError(
            "DATA_FOLDER_UNUSABLE",
            f"The certificates in {certificates.folder} cannot be used: {error}. `ragkeep up` makes them.",
        ) from None
    async with client:
        yield client
