"""Orchestrates the services: who asks, what they may see, import and answers."""
