"""The decisions of the snapshotter, as pure functions."""
