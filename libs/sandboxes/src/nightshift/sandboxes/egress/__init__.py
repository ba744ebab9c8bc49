"""The egress proxy: what sandboxes may reach outside, and how secrets get into requests without entering a sandbox."""
