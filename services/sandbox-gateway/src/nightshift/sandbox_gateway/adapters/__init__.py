"""The adapters of the sandbox gateway. Each vendor library is imported by one module only."""
