from contextlib import ExitStack

import pytest

from service.inference.admission import Admission
from service.inference.front_assembly import admission_of
from service.processes.shares import share_of_front
from service.settings import ServiceSettings

CHUNK_BYTES = 50_000


def arrive(admission: Admission, name: str, num_bytes: int, stack: ExitStack) -> None:
    body = stack.enter_context(admission.body(name))
    for _ in range(num_bytes // CHUNK_BYTES):
        body.add(CHUNK_BYTES)


@pytest.mark.parametrize("fronts", [1, 5, 64])
def test_each_front_takes_a_request_of_the_largest_size(fronts: int) -> None:
    settings = share_of_front(ServiceSettings(front_processes=fronts))
    admission = admission_of(settings)
    largest_bytes = settings.max_classify_body_bytes
    with ExitStack() as held:
        arrive(admission, "zoo", largest_bytes, held)
        held.enter_context(admission.images("zoo", settings.max_images_per_request))
        assert admission.num_bytes == largest_bytes
        assert admission.num_images == settings.max_images_per_request
    with ExitStack() as held:  # and nearly as large a one beside others
        arrive(admission, "small", largest_bytes // 100, held)
        arrive(admission, "zoo", largest_bytes * 98 // 100, held)
        assert admission.num_bytes == largest_bytes * 99 // 100
