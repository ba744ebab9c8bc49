"""Adapters of the ports: PostgreSQL."""
