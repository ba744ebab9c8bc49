"""The object store: its port, the S3 adapter, and an in-memory store."""
