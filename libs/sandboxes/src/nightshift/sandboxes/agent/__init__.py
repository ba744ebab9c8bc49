"""The agent: the code that runs inside every sandbox and does calls, file operations, searches and previews.

It needs Python 3.8 or newer and nothing else, and imports nothing of the rest of the project. In a local sandbox it is
process 1 behind a socket; at E2B one process runs for each request. Code outside the sandbox never trusts its answers.
"""
