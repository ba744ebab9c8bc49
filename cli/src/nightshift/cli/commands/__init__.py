"""One module for each subcommand, with its cyclopts `app`. nightshift.cli.main loads the one that is used."""
