"""A Messages API server that answers from a scenario file instead of a model."""
