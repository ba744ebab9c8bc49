"""What a workspace looks like in the object store, and the way there and back. Used by snapshotter and gateway."""
