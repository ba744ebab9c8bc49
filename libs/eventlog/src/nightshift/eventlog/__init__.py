"""The append-only event log on PostgreSQL, leases, and the object store for large event fields."""
