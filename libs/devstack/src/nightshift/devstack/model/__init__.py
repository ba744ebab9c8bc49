"""A server of the Messages API that answers from a scenario file instead of a model."""
