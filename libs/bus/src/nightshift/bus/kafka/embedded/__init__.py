"""Workarounds for the embedded broker. An installation on Apache Kafka never imports this package."""
