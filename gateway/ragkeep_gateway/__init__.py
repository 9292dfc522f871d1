"""Orchestrates the services: who asks, what they may see, import and answers."""

import ragkeep_runtime.tls_floor  # noqa: F401 - before gRPC
