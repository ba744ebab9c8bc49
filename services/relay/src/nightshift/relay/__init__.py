"""The relay: publishes the facts of the event log to Kafka, in order and at least once."""
