"""One module per subcommand, each with its cyclopts `app`; nightshift.cli.main loads the one that is used."""
