"""Runs tool calls in sandboxes, each once."""
