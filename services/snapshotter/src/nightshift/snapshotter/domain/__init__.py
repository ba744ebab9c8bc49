"""What the snapshotter decides, as pure functions."""
