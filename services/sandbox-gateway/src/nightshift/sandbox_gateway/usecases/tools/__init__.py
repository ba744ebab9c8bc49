"""The tools, one function each. An error that the agent can correct is returned as an outcome, not raised."""
