from service.errors import problem_of
from service.inference.errors import DeadlineExceededError, too_late


def test_a_request_that_is_too_late_is_told_its_deadline_and_the_setting() -> None:
    error = too_late(2.5)
    assert isinstance(error, DeadlineExceededError)
    problem = problem_of(error)
    assert (problem.status, problem.slug) == (504, "deadline-exceeded")
    assert problem.detail == "no answer within the deadline of 2.5 s (request_deadline_s)"
