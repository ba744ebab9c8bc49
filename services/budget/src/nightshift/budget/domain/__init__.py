"""Money as pure functions: what a day is, what may be granted, how a reservation ends."""
