"""The vendors' side of the ports."""
