"""The event log: append, read, and what waits for whom."""
