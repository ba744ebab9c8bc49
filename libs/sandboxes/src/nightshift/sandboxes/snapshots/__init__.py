"""Snapshots: how a workspace is stored in the object store, saved and restored. Used by snapshotter and gateway."""
