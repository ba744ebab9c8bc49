"""The decisions of the relay, as pure functions without clock, network or database."""
