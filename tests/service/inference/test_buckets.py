import pytest

from service.inference.buckets import batch_buckets, bucket_for


@pytest.mark.parametrize(
    ("max_batch_size", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (7, (1, 2, 4, 7)),
        (32, (1, 2, 4, 8, 16, 24, 32)),
        (40, (1, 2, 4, 8, 16, 24, 32, 40)),
        (128, (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)),
    ],
)
def test_there_are_few_sizes_up_to_the_largest(
    max_batch_size: int, expected: tuple[int, ...]
) -> None:
    assert batch_buckets(max_batch_size) == expected


@pytest.mark.parametrize("max_batch_size", [1, 3, 16, 33, 64, 100, 4096])
def test_every_size_fits_and_little_of_it_is_padding(max_batch_size: int) -> None:
    buckets = batch_buckets(max_batch_size)
    assert buckets[-1] == max_batch_size
    for size in range(1, max_batch_size + 1):
        bucket = bucket_for(size, buckets)
        assert size <= bucket < (2 * size if size < 16 else 1.5 * size) or bucket == size == 1
    with pytest.raises(ValueError, match=f"batch of {max_batch_size + 1} exceeds"):
        bucket_for(max_batch_size + 1, buckets)
