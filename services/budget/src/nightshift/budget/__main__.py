"""Runs the budget service: `python -m nightshift.budget`."""

from nightshift.budget.app import main

if __name__ == "__main__":
    main()
