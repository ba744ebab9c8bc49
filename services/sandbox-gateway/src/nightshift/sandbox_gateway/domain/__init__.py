"""The decisions of the sandbox gateway, as pure functions and data."""
