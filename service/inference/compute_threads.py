"""How many threads torch computes with, in the engine and while it is started.

On a CPU torch computes with GNU OpenMP, and every thread that ever computed on several cores keeps
a team of helpers. Once all teams together outnumber the cores, helpers no longer spin between the
hundreds of parallel steps of a forward pass: they are put to sleep, and the pass takes twice as
long. So nothing but the engine's first stream may have a team: start-up computes alone.
"""

from collections.abc import Generator
from contextlib import contextmanager

import joblib
import torch


def keep_to_processors() -> None:
    """Have torch use no more threads than processors that this process may use.

    torch knows the affinity of the process but no quota of a container; threads beyond it would
    have all of them stopped for most of the time.
    """
    torch.set_num_threads(min(torch.get_num_threads(), joblib.cpu_count()))


@contextmanager
def computing_alone() -> Generator[None]:
    """Compute without helpers for as long as the context lasts.

    A thread takes its number of helpers when it computes for the first time. One that did so in
    the context stays alone after it; one that begins later has the helpers that were usual before.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
