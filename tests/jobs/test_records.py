import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.errors import FitIdError
from jobs.records import (
    FitId,
    FitOutcome,
    FitResultDocs,
    FitSpec,
    FitState,
    Progress,
)
from prompt_store.names import NAME_PATTERN
from tests.jobs.conftest import MakeSpec


@given(
    name=st.from_regex(NAME_PATTERN, fullmatch=True),
    version=st.integers(1, 99_999_999),
)
def test_a_fit_id_is_read_as_it_was_written(name: str, version: int) -> None:
    assert FitId.parse(str(FitId(name, version))) == FitId(name, version)


@pytest.mark.parametrize(
    "text", ["", "fashion", "fashion@", "fashion@0", "fashion@01", "a@1@2", "a/b@1", "Fashion@1",
             "a@100000000", "a@1\n", "a\n@1", "@1", f"{'a' * 65}@1"]
)  # fmt: skip
def test_what_is_no_fit_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(FitIdError, match="expected name@version"):
        FitId.parse(text)


def test_a_request_has_no_unknown_options(make_spec: MakeSpec) -> None:
    document = make_spec("fashion").model_dump(mode="json")
    document["options"]["epochs"] = 3
    with pytest.raises(ValidationError, match="epochs"):
        FitSpec.model_validate(document)


def test_a_request_from_before_it_told_what_was_left_out_can_be_read(make_spec: MakeSpec) -> None:
    document = make_spec("fashion").model_dump(mode="json")
    del document["left_out"]
    assert FitSpec.model_validate(document) == make_spec("fashion")


def test_nothing_follows_an_outcome() -> None:
    outcome = FitOutcome(
        status="dead", attempt=3, started_at=None, finished_at=datetime(2026, 1, 2, tzinfo=UTC)
    )
    assert Progress.of_outcome(outcome).event == "outcome"
    assert Progress(status="running").event == "progress"


def test_a_result_must_be_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        FitResultDocs(b"", {"accuracy": math.nan})
    with pytest.raises(TypeError, match="not JSON serializable"):
        FitResultDocs(b"", {"accuracy": object()})


def test_an_attempt_that_was_handed_back_is_neither_lost_nor_held() -> None:
    state = FitState(attempt=2, released=frozenset({2}), ended=False)
    assert (state.lost, state.held) == (1, False)
    assert FitState(attempt=2, released=frozenset({1}), ended=False).held
