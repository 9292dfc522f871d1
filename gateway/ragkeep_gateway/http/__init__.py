"""The HTTPS edge: people come by token, as server-sent events or in OpenAI's shape; the same methods as over gRPC."""
