"""Question and passages to a streamed answer."""
