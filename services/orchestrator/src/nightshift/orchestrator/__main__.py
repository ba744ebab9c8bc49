"""Runs the service: `python -m nightshift.orchestrator`."""

from nightshift.orchestrator.app import main

main()
