"""Texts to vectors."""

import ragkeep_runtime.tls_floor  # noqa: F401 - before gRPC
