"""The scripted model: a server with the Messages API that answers from a scenario file."""
