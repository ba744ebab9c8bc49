"""The egress proxy.

It decides what sandboxes may reach, and puts secrets into requests without showing them to commands.
"""
