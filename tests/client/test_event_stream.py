import itertools

from hypothesis import given
from hypothesis import strategies as st

from client.event_stream import ServerEvent, parse_events, split_lines


def events(*chunks: bytes) -> list[ServerEvent]:
    return list(parse_events(split_lines(chunks)))


def test_fields_make_an_event_at_the_blank_line() -> None:
    assert events(b"id: 7\nevent: progress\ndata: {}\n\n") == [ServerEvent("7", "progress", "{}")]


def test_the_id_stays_and_the_event_name_does_not() -> None:
    assert events(b"id: 7\nevent: a\ndata: 1\n\ndata: 2\n\n") == [
        ServerEvent("7", "a", "1"),
        ServerEvent("7", "message", "2"),
    ]


def test_several_data_lines_are_joined() -> None:
    assert events(b"data: a\ndata:b\n\n") == [ServerEvent(None, "message", "a\nb")]


def test_comments_and_unknown_fields_are_ignored() -> None:
    assert events(b": keep-alive\n\nretry: 10\ndata: x\n\n") == [ServerEvent(None, "message", "x")]


def test_an_unfinished_event_is_dropped() -> None:
    assert events(b"data: whole\n\ndata: cut\n") == [ServerEvent(None, "message", "whole")]


def test_only_cr_and_lf_end_a_line() -> None:
    text = "data: a\u2028b\x0bc\x85d"
    assert events(f"{text}\n\n".encode()) == [ServerEvent(None, "message", text[6:])]


@given(st.data())
def test_where_the_stream_is_cut_into_chunks_does_not_matter(data: st.DataObject) -> None:
    stream = "id: 1\r\ndata: é1\r\n\r\nid: 2\ndata: 2\n\nid: 3\rdata: 3\r\r\n".encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert [event.data for event in events(*chunks)] == ["é1", "2", "3"]
