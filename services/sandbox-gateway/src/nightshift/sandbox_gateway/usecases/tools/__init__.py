"""The tools, one function each. An error that the agent can correct is an outcome, not an exception."""
