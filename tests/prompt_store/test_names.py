import pytest

from prompt_store.errors import NameInvalidError
from prompt_store.names import (
    AliasReference,
    DigestReference,
    NameReference,
    check_alias,
    check_digest,
    check_name,
    check_version,
    digest_of,
    parse_reference,
    shown,
)

DIGEST = digest_of(b"abc")


def test_a_digest_is_that_of_sha256() -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert f"sha256:{known}" == DIGEST


@pytest.mark.parametrize("name", ["a", "0", "fashion", "a.b-c_d", "a" * 64])
def test_well_formed_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", ".a", "-a", "a/b", "a b", "a\n", "a@1", "ä", "..", "a" * 65, "a\x00"]
)
def test_malformed_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(NameInvalidError) as caught:
        check_name(name)
    assert shown(name) in str(caught.value)


@pytest.mark.parametrize(
    "digest", ["", "abc", "sha256:", DIGEST.upper(), f"{DIGEST}0", "sha256:.."]
)
def test_malformed_digests_are_refused(digest: str) -> None:
    with pytest.raises(NameInvalidError, match="does not match"):
        check_digest(digest)


@pytest.mark.parametrize("version", [0, -1, 100_000_000])
def test_versions_out_of_range_are_refused(version: int) -> None:
    with pytest.raises(NameInvalidError, match=f"version {version} is not within 1 to 99999999"):
        check_version(version)


@pytest.mark.parametrize("alias", ["prod", "v3", "3rd", "1.5", "a" * 64])
def test_aliases_are_names(alias: str) -> None:
    assert check_alias(alias) == alias
    assert parse_reference(f"count@{alias}") == AliasReference("count", alias)
    assert str(AliasReference("count", alias)) == f"count@{alias}"


@pytest.mark.parametrize(
    "alias", ["3", "0", "007", "123456789", "", "Prod", "a/b", "a@b", "²", "٣"]
)
def test_aliases_do_not_look_like_versions(alias: str) -> None:
    with pytest.raises(NameInvalidError, match="alias"):
        check_alias(alias)


def test_references_take_four_forms() -> None:
    assert parse_reference("count") == NameReference("count", None)
    assert parse_reference("count@3") == NameReference("count", 3)
    assert parse_reference(DIGEST) == DigestReference(DIGEST)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "@3",
        "a@",
        "a@0",
        "a@007",
        "a@-1",
        "a@X",
        "a@@1",
        "a@b@1",
        "sha256:12",
        "a@123456789",
        "A@b",
    ],
)
def test_malformed_references_are_refused(reference: str) -> None:
    with pytest.raises(NameInvalidError):
        parse_reference(reference)


def test_what_is_shown_is_short() -> None:
    assert shown("x" * 10**6) == shown("x" * 10**7)
    assert len(shown("x" * 10**6)) < 100
    assert shown("line\nbreak") == r"'line\nbreak'"
