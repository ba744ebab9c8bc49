"""Leases: which process may work on a name, until when."""
