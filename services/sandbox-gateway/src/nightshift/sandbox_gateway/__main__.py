"""`python -m nightshift.sandbox_gateway` runs the gateway."""

from nightshift.sandbox_gateway.app import main

main()
