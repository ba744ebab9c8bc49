"""The use cases of the gateway: read the log, decide, act on the sandbox, append."""
