"""`python -m nightshift.cli` is the `nightshift` command."""

from nightshift.cli.main import main

main()
