"""The Sandbox protocol and its drivers: E2B and local (bubblewrap)."""
