"""The subcommands, one module each. `nightshift.cli.main` imports only the one that is used."""
