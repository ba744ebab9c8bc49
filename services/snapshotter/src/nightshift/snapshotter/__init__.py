"""Saves the workspaces of builds to S3."""
