"""Adapters of the ports: the sandbox driver and the snapshot store."""
