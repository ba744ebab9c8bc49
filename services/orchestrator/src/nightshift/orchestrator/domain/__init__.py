"""The pure core. It computes the state of a build and its decisions from events, without IO, clock or randomness."""
