"""One module for each vendor library, its only importer."""
