"""Leases: the right of one process to work on a named thing for some seconds."""
