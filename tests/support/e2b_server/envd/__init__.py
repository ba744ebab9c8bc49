"""What runs inside each sandbox of the E2B server."""
