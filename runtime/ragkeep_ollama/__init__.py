"""What the embedder's and the generator's adapters of Ollama share: its errors, and its models."""
