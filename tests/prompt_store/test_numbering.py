import pytest

from prompt_store.numbering import last_number


@pytest.mark.parametrize("start", [0, 1, 5])
@pytest.mark.parametrize("num_more", [*range(40), 1000])
def test_the_last_number_is_found_in_few_looks(start: int, num_more: int) -> None:
    looks: list[int] = []

    def exists(number: int) -> bool:
        looks.append(number)
        return number <= start + num_more

    assert last_number(exists, start) == start + num_more
    assert len(looks) <= 2 * (num_more + 1).bit_length() - 1
    assert min(looks) > start
