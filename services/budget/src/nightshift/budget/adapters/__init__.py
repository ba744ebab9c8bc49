"""The budget service's adapters for PostgreSQL."""
