"""The parts that every service process has: start and stop, settings, health checks, logs, and a pool for long work."""
