"""Workarounds for the embedded broker. An installation on Apache Kafka never loads this package."""
