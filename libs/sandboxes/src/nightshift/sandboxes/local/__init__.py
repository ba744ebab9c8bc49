"""Sandboxes on this machine, isolated by bubblewrap. They share the host's kernel, so they are for one tenant only."""
