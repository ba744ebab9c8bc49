"""Money per account and day; sleep and wake."""
