"""The sandbox-gateway: runs the tool calls of builds in sandboxes, each call once."""
