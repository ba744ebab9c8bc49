"""The decisions of the gateway, as pure functions and data."""
