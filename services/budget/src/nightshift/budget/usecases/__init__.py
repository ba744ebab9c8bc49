"""The work of the budget service by subject: grants, accounts, wakes."""
