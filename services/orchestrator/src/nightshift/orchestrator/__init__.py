"""The orchestrator. It runs builds: a loop of model calls and tool calls."""
