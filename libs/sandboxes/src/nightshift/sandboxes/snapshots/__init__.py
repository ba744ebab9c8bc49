"""Snapshots of workspaces: how they are stored in the object store, saved and restored.

The snapshotter and the sandbox gateway use this package.
"""
