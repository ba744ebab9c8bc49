"""The decisions about money, as pure functions: what a day is, what is granted, and how a reservation ends."""
