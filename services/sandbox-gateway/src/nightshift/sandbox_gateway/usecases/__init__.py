"""The use cases of the sandbox gateway: read the log, decide, act on the sandbox, append."""
