"""The use case of the snapshotter: make the snapshots that a build needs."""
