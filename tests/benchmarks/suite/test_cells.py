import pytest

from benchmarks.suite.cells import Plan, parse_shard, shard_of
from benchmarks.suite.errors import SuiteError

PLAN = Plan(
    targets={"a": 9, "b": 4},
    shots=(10, "full"),
    seeds=(0, 1, 2),
    num_sources=(3, 5),
    variants={"none": False, "mean": True, "hgprompt": True},
)


def test_variants_without_sources_are_computed_once_for_all_numbers_of_sources() -> None:
    cells = PLAN.cells()
    assert len(cells) == len(set(cells))
    assert sum(cell.variant == "none" for cell in cells) == 2 * 2 * 3
    assert {cell.num_sources for cell in cells if cell.variant == "none"} == {0}


def test_a_target_with_too_few_sources_has_no_such_cells_and_is_named() -> None:
    numbers = {target: set[int]() for target in PLAN.targets}
    for cell in PLAN.cells():
        numbers[cell.target].add(cell.num_sources)
    assert numbers == {"a": {0, 3, 5}, "b": {0, 3}}
    assert PLAN.impossible() == {"b": [5]}


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_shards_are_disjoint_and_complete(count: int) -> None:
    cells = PLAN.cells()
    parts = [shard_of(cells, index, count) for index in range(1, count + 1)]
    assert [cell for part in parts for cell in part] == cells


def test_a_plan_survives_its_file() -> None:
    assert Plan.model_validate_json(PLAN.model_dump_json()) == PLAN


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_other_shards_are_refused(text: str) -> None:
    with pytest.raises(SuiteError, match="is not I/K"):
        parse_shard(text)


def test_a_shard_is_read() -> None:
    assert parse_shard("2/4") == (2, 4)
