"""Runs the relay: `python -m nightshift.relay`."""

from nightshift.relay.app import main

main()
