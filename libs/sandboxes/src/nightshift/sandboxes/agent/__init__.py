"""The agent program, which runs inside every sandbox. In this package "agent" means this program, not the model. It
runs calls, file operations, searches and previews.

It needs only Python 3.8 or newer and imports nothing of the rest of the project. In a local sandbox it is process 1
behind a socket; at E2B a new process runs for each request. Code outside the sandbox never trusts its answers.
"""
