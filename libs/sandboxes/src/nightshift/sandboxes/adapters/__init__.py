"""The drivers that need a vendor's SDK. Each SDK is imported by one module only."""
