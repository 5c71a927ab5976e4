"""Ends a process group when the process that started this one is gone, however it ended.

Run as a script by `client.supervisor`, as the first member of the group that its other children
join. Standard input is a pipe that only the supervisor can write to: end of file means that the
supervisor no longer exists. Works on every POSIX system, also when the supervisor was killed.

Only the standard library, and little of it: this process lives as long as the deployment.
"""

import contextlib
import os
import signal
import sys
import time

POLL_S = 0.1


def main(grace_s: float) -> None:
    """Waits for the supervisor's end, asks the group to stop, and kills what is left of it."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    group = os.getpgrp()
    if os.fork():
        os._exit(0)  # the child can leave the group, its leader could not
    os.setpgid(0, 0)
    with contextlib.suppress(ProcessLookupError):  # the group is empty: done
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            time.sleep(POLL_S)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(float(sys.argv[1]))
