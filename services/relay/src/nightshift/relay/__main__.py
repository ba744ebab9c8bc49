"""`python -m nightshift.relay` runs the relay."""

from nightshift.relay.app import main

main()
