"""PostgreSQL, Kafka and the object store as the relay uses them."""
