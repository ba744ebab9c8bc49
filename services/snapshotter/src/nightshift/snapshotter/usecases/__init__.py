"""What the snapshotter does."""
