"""The tools, one function each: a validated input in, an outcome out. Errors of the agent's making are outcomes."""
