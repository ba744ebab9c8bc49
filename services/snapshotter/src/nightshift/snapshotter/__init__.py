"""Workspaces to S3 and back."""
