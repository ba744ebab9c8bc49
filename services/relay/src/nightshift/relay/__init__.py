"""Publishes the event log to Kafka, in order, at least once."""
