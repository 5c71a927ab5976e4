import base64
import hashlib
import time

import pytest

from service.content_digest import check_content_digest, checked_algorithms
from service.problems import ProblemError

DIGESTS = {"sha-256": hashlib.sha256(b"data").digest(), "sha-512": hashlib.sha512(b"data").digest()}
RIGHT = f"sha-256=:{base64.b64encode(hashlib.sha256(b'data').digest()).decode()}:"
RIGHT_512 = f"sha-512=:{base64.b64encode(DIGESTS['sha-512']).decode()}:"
WRONG_512 = "sha-512=:AAAA:"
WRONG = f"sha-256=:{base64.b64encode(hashlib.sha256(b'other').digest()).decode()}:"


def slug(*lines: str) -> str | None:
    """What a header is refused with; None if it is not."""
    try:
        needed = {name: DIGESTS[name] for name in checked_algorithms(lines)}
        check_content_digest(lines, needed)
    except ProblemError as error:
        return f"{error.problem.status} {error.problem.slug}"
    return None


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("",),
        (RIGHT,),
        (f" {RIGHT} ",),
        (RIGHT.replace("sha", "SHA"),),
        (RIGHT_512,),
        (f"{RIGHT_512.upper()[:7]}{RIGHT_512[7:]}, {RIGHT}",),
        (f"{RIGHT}\t,unixsum=:AQ==:",),
        (RIGHT_512, RIGHT),
        (f'{RIGHT};a; b=c;d="x, y;z"',),
        ("md5=:AAAA:",),
        (f"{WRONG}, {RIGHT}",),
    ],
    ids=str,
)
def test_the_right_digest_and_other_algorithms_are_accepted(lines: tuple[str, ...]) -> None:
    assert slug(*lines) is None


@pytest.mark.parametrize(
    "lines",
    [
        (WRONG,),
        (f"{RIGHT}, {WRONG}",),
        ("md5=:AAAA:", WRONG),
        ("sha-256=::",),
        ("sha-512=:AAAA:",),
        (f"{RIGHT}, sha-512=:AAAA:",),
    ],
    ids=str,
)
def test_another_digest_is_a_mismatch(lines: tuple[str, ...]) -> None:
    assert slug(*lines) == "400 content-digest-mismatch"


@pytest.mark.parametrize(
    "header",
    [
        *("garbage", ",", "sha-256", "sha-256=", "sha-256=x", "sha-256=:%%%:", "sha-256=:A:"),
        *(f"{RIGHT},", f",{RIGHT}", f"{RIGHT} {RIGHT}", f"{RIGHT};", f"{RIGHT}x", RIGHT[:-1]),
        *("sha-512=x", f"{RIGHT}, md5=x", f"sha-256 = {RIGHT[8:]}", f"{RIGHT}\nx", "9=:AAAA:"),
    ],
)
def test_what_cannot_be_read_is_refused(header: str) -> None:
    assert slug(header) == "400 malformed-content-digest"


@pytest.mark.parametrize(
    "part",
    ["a=:AAAA:, ", 'a=:AAAA:;b="c";d=e, ', "a=:AAAA:;b=c;d", ";b=c", ";", "a;", "sha-256=:AAAA"],
)
def test_a_long_header_is_read_in_no_time(part: str) -> None:
    began_s = time.process_time()
    assert slug(part * (60_000 // len(part)) + "!") == "400 malformed-content-digest"
    assert time.process_time() - began_s < 1.0
