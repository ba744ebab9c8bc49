"""What every service process has: start and stop, settings, probes, logs, and a pool for long work."""
