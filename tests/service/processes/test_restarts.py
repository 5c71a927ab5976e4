from service.processes.restarts import RestartPolicy, Restarts


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_pauses_double_and_then_it_gives_up() -> None:
    policy = RestartPolicy(max_failures=5, window_s=60, first_delay_s=1)
    restarts = Restarts(policy, Clock())
    assert [restarts.failed() for _ in range(5)] == [1, 2, 4, 8, None]


def test_failures_are_forgotten_after_the_window() -> None:
    clock = Clock()
    restarts = Restarts(RestartPolicy(max_failures=3, window_s=60, first_delay_s=1), clock)
    delays: list[float | None] = []
    for clock.now_s in (0, 59, 60, 200, 201, 202):
        delays.append(restarts.failed())
    assert delays == [1, 2, 2, 1, 2, None]
