"""Implementations of the ports, with one file for each vendor."""
