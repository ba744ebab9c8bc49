"""What runs inside every sandbox, on Python 3.8 or newer and nothing else: calls, files, search, ports.

The same files serve every driver: local as process 1 behind a socket, E2B as one process a request. Nothing of the
rest of the project is imported here, and whatever it answers is not trusted outside.
"""
