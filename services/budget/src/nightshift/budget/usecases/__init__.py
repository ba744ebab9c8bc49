"""What the budget service does, by subject: grants, accounts, wakes."""
