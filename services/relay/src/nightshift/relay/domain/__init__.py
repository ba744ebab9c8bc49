"""What the relay decides, without a clock, a network or a database."""
