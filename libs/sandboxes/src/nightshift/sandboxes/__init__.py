"""Sandboxes: the isolated machines in which agents' tools run, with drivers for E2B and for this machine
(bubblewrap).
"""
