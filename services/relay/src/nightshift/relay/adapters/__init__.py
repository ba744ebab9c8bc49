"""The relay's adapters for PostgreSQL, Kafka and the object store."""
