"""The shell of a service: start and stop, settings, probes, logs, bounded work."""
