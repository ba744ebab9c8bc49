"""Sandboxes on this machine by bubblewrap: for one tenant, on a kernel shared with the host."""
