"""The append-only event log on PostgreSQL, with its leases and the object store for large fields."""
