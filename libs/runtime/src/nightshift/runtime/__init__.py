"""The ground of every Nightshift service: event log, broker, leases, settings, logs."""
