"""Question and passages to a streamed answer."""

import ragkeep_runtime.tls_floor  # noqa: F401 - before gRPC
