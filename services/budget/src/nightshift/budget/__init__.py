"""Decides about money: budgets per account and day, sleep and wake."""
