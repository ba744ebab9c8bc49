"""Snapshots of workspaces: how they are stored in the object store, saved and restored.

The snapshotter and the gateway use this package.
"""
