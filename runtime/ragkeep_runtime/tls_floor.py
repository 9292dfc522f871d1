"""TLS 1.3 and nothing older, on every gRPC port. Imported for that alone, before anything that imports gRPC.

Python's gRPC has no setting for the least version. This variable names the suites of TLS 1.2 and older; one with a
pre-shared key, which nobody here has, leaves no way to agree on them. gRPC reads it once, when it is imported.
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-PSK-AES256-CBC-SHA"
