"""The pure core: the state of a build and its decisions, as functions of its events. No IO, clock or randomness."""
