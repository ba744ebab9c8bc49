"""The agent: the code that runs inside every sandbox. It runs calls, file operations, searches and previews.

It needs only Python 3.8 or newer and imports nothing of the rest of the project. In a local sandbox it is process 1
behind a socket; at E2B a new process runs for each request. Code outside the sandbox never trusts its answers.
"""
