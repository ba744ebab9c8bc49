"""Leases: which process may work on a named thing, and until when."""
