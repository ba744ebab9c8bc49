"""The embedded local stack: PostgreSQL, a Kafka-protocol broker, an S3 server and a scripted model."""
