"""The snapshotter's adapters for sandboxes and the snapshot store."""
