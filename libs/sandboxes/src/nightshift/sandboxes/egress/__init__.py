"""The egress proxy.

It decides which hosts sandboxes may reach, and puts secrets into requests without showing them to commands.
"""
