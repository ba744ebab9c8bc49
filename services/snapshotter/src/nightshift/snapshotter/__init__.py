"""The snapshotter: saves the workspaces of builds to the object store."""
