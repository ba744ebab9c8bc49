"""Runs the sandbox gateway: `python -m nightshift.sandbox_gateway`."""

from nightshift.sandbox_gateway.app import main

main()
