import threading

import pytest
import torch

from service.inference.compute_threads import computing_alone, keep_to_processors


def test_only_threads_that_begin_after_the_start_compute_with_helpers() -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(3)  # whatever this machine has
    try:
        seen: dict[str, int] = {}
        go_on = threading.Event()

        def early() -> None:
            seen["early"] = torch.get_num_threads()
            began.set()
            go_on.wait()
            seen["early, afterwards"] = torch.get_num_threads()

        def late() -> None:
            seen["late"] = torch.get_num_threads()

        began = threading.Event()
        threads = [threading.Thread(target=early), threading.Thread(target=late)]
        with computing_alone():
            seen["this"] = torch.get_num_threads()
            threads[0].start()
            began.wait()
        go_on.set()
        threads[1].start()
        for thread in threads:
            thread.join()
        assert seen == {"early": 1, "this": 1, "early, afterwards": 1, "late": 3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 1)])
def test_torch_keeps_to_the_processors_that_it_may_use(
    one_processor: None, before: int, after: int
) -> None:
    del one_processor
    usual = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        keep_to_processors()
        assert torch.get_num_threads() == after
    finally:
        torch.set_num_threads(usual)
