"""Starts relays fast: imports everything once, then forks a process for each line of JSON (its environment).

A fresh Python needs about a second for the imports; a hundred kills would be spent on nothing else.
"""

import json
import os
import signal
import sys

from nightshift.relay import app

children: list[int] = []
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps ended children
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environment"], NIGHTSHIFT_REPLICA_ID=f"relay-{os.getpid()}")
        app.main()
    children.append(pid)
    sys.stdout.write(f"{pid}\n")
    sys.stdout.flush()
for pid in children:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        continue
