"""The gateway's adapters. Each vendor library is imported by one module only."""
