"""Plans, starts, supervises and stops the local stack."""
