"""Leaving for good, although a thread hangs.

A read from a network volume whose server is gone, or a call of a driver, may never return. Python
waits at its end for every such thread, so a process that has answered everything would stay. Then
it takes all modules apart, which is more than a second of processor time with torch among them: on
a busy machine long enough to be killed in the middle of it. The system does the same at once.
"""

import logging
import os
import threading
import time
from typing import NoReturn

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0


LAST_TRACES_S = 30.0
"""What OpenTelemetry may take to send the last spans."""


def leave(status: int = 0) -> NoReturn:
    """End the process now. To be called when everything is answered and written."""
    logging.shutdown()
    os._exit(status)


def leave_soon(patience_s: float) -> None:
    """End the process with status 0 after a while, if it has not ended by itself until then.

    To be called when everything is answered.
    """
    threading.Thread(target=_leave, args=(patience_s,), name="last-resort", daemon=True).start()


def _leave(patience_s: float) -> None:
    time.sleep(patience_s)
    hanging = sorted(
        each.name
        for each in threading.enumerate()
        if not each.daemon and each is not threading.main_thread()
    )
    logger.warning("left although threads hang", extra={"threads": hanging})
    leave()
