"""The gateway's use cases: read the log, decide, act on the sandbox, append."""
