import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.errors import ArchiveError
from images.labelled import ArchiveLimits, Budget, Layout, entry_parts

LIMITS = ArchiveLimits(
    max_entries=2, max_image_bytes=10, max_total_bytes=15, max_classes=2, max_name_chars=12
)


@given(st.text(max_size=20))
def test_a_name_is_refused_hidden_or_plain(name: str) -> None:
    try:
        parts = entry_parts(name, LIMITS)
    except ArchiveError as error:
        assert str(error)  # noqa: PT017
        return
    for part in parts or ():
        assert part not in ("", ".", "..")
        assert not set(part) & {"/", "\\", "\0", "\n"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/b.png", ("a", "b.png")),
        ("./a//b.png", ("a", "b.png")),
        ("a/.b.png", None),
        ("__MACOSX/b", None),
        ("a/3\u202fPM.png", ("a", "3\u202fPM.png")),
        ("", ()),
    ],
)
def test_plain_and_hidden_names(name: str, parts: tuple[str, ...] | None) -> None:
    assert entry_parts(name, LIMITS) == parts


def test_layout_limits_classes() -> None:
    layout = Layout(LIMITS)
    assert [layout.label((label, "x")) for label in "ab"] == ["a", "b"]
    with pytest.raises(ArchiveError, match="more than 2 classes"):
        layout.label(("c", "x"))


def test_budget_names_its_limits() -> None:
    budget = Budget(LIMITS)
    budget.add_bytes(15)
    with pytest.raises(ArchiveError, match="more than 15 bytes"):
        budget.add_bytes(1)
    budget.add_entry()
    budget.add_entry()
    with pytest.raises(ArchiveError, match="more than 2 entries"):
        budget.add_entry()
    budget.check_image("a", 10)
    with pytest.raises(ArchiveError, match="more than 10 bytes"):
        budget.check_image("a", 11)
    with pytest.raises(ArchiveError, match="empty"):
        budget.check_image("a", 0)
