"""One file for each vendor's SDK, its only importer."""
