"""The few batch sizes that a GPU is prepared for."""

from bisect import bisect_left

MIN_HALF_STEP = 16
"""From here on there is a bucket between each power of two and the next."""


def batch_buckets(max_batch_size: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, 16, 24, 32, 48, 64, … up to and including the largest batch.

    At most half of a small batch and a third of a large one is padding.
    """
    sizes: set[int] = {max_batch_size}
    size = 1
    while size < max_batch_size:
        sizes.add(size)
        if size >= MIN_HALF_STEP:
            sizes.add(min(max_batch_size, size * 3 // 2))
        size *= 2
    return tuple(sorted(sizes))


def bucket_for(size: int, buckets: tuple[int, ...]) -> int:
    """Return the smallest bucket that holds a batch.

    Raises:
        ValueError: The batch is larger than the largest bucket.
    """
    if size > buckets[-1]:
        raise ValueError(f"a batch of {size} exceeds the largest bucket, {buckets[-1]}")
    return buckets[bisect_left(buckets, size)]
