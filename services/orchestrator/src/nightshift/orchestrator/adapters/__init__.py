"""Implementations of the ports, one file per vendor."""
