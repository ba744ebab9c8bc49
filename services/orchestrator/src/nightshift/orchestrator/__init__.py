"""The orchestrator: runs builds with the loop of model calls and tool calls."""
