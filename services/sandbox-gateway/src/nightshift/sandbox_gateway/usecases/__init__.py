"""When the gateway does what: load, decide, run, append."""
