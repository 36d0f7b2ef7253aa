"""Limits of keys, with a clock that the test sets."""

import dataclasses

import pytest

from fastchat.errors import ForbiddenError, QuotaError, RateLimitError
from fastchat.serve.limits import Account, Caller, Window, duration
from fastchat.store.keys import ApiKey, Limits

MIDNIGHT = 86400.0 * 20_000


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return MIDNIGHT + self.now


class Day:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.requests = self.tokens = 0
        self.estimated: list[bool] = []

    def today(self, key_id: str) -> tuple[int, int]:
        return self.requests, self.tokens

    def add(
        self,
        key_id: str,
        model: str,
        *,
        requests: int,
        prompt: int,
        completion: int,
        is_estimated: bool,
    ) -> None:
        self.requests += requests
        self.tokens += prompt + completion
        self.estimated.append(is_estimated)


class World:
    def __init__(self, models: tuple[str, ...] = (), /, **limits: int) -> None:
        self.clock = Clock()
        self.day = Day()
        key = ApiKey(
            id="k", prefix="p", name="n", created_at=0, models=models, limits=Limits(**limits)
        )
        clock = self.clock
        self.account = Account(key, self.day, now=clock.monotonic, wall=clock.wall)

    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.account.headers()}


def test_a_window_holds_in_every_minute() -> None:
    window = Window(10)
    window.add(6, 100.9)
    window.add(4, 130.0)
    window.look(160.95)
    assert window.used == 10  # second 100 is not wholly past
    window.look(161.0)
    assert window.used == 4
    assert window.reset_s(161.0) == 30.0
    window.look(191.0)
    assert (window.used, window.reset_s(191.0)) == (0, 0.0)


def test_waiting_as_told_is_enough() -> None:
    window = Window(10)
    for now in (100.0, 110.0, 120.0):
        window.add(3, now)
    wait_s = window.wait_s(4, 125.0)
    window.look(125.0 + wait_s)
    assert window.used + 4 <= 10
    assert window.wait_s(1, 125.0 + wait_s) == 0.0


def test_requests_a_minute_are_limited_and_told() -> None:
    world = World(requests_per_minute=2)
    for left in (1, 0):
        world.account.admit("m", tokens=5).settle(prompt=1, completion=1)
        assert world.headers() == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": "1m1s",
        }
    with pytest.raises(RateLimitError) as caught:
        world.account.admit("m", tokens=5)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert caught.value.retry_after_s == 61
    world.clock.now += 61
    assert world.headers()["x-ratelimit-remaining-requests"] == "2"
    world.account.admit("m", tokens=5)


def test_tokens_are_expected_then_settled() -> None:
    world = World(tokens_per_minute=100)
    charge = world.account.admit("m", tokens=80)
    assert world.headers()["x-ratelimit-remaining-tokens"] == "20"
    with pytest.raises(RateLimitError):
        world.account.admit("m", tokens=30)
    charge.settle(prompt=10, completion=5)
    charge.settle(prompt=99, completion=99)  # closed once
    assert world.headers()["x-ratelimit-remaining-tokens"] == "85"
    world.account.admit("m", tokens=30).settle(prompt=50, completion=50)
    assert world.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert world.day.tokens == 115


def test_a_request_that_was_not_answered_gives_its_tokens_back() -> None:
    world = World(tokens_per_minute=100, requests_per_minute=9)
    world.account.admit("m", tokens=80).cancel()
    assert world.headers()["x-ratelimit-remaining-tokens"] == "100"
    assert world.headers()["x-ratelimit-remaining-requests"] == "8"
    assert (world.day.requests, world.day.tokens) == (0, 0)


def test_what_exceeds_a_limit_alone_may_go_alone() -> None:
    world = World(tokens_per_minute=100)
    charge = world.account.admit("m", tokens=5000)
    with pytest.raises(RateLimitError):
        world.account.admit("m", tokens=1)
    charge.settle(prompt=20, completion=0)
    world.account.admit("m", tokens=80)


@pytest.mark.parametrize("limits", [{"requests_per_day": 2}, {"tokens_per_day": 20}])
def test_a_days_quota_ends_at_midnight(limits: dict[str, int]) -> None:
    world = World(**limits)
    for _ in range(2):
        world.account.admit("m", tokens=0).settle(prompt=5, completion=5)
    with pytest.raises(QuotaError) as caught:
        world.account.admit("m", tokens=0)
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    assert caught.value.retry_after_s == 86400 - 1000
    reset = {"x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"} & set(world.headers())
    assert [world.headers()[name] for name in reset] == ["23h43m20s"]
    world.day.requests = world.day.tokens = 0
    world.account.admit("m", tokens=0)


def test_requests_under_way_count_for_the_day() -> None:
    world = World(requests_per_day=1)
    charge = world.account.admit("m", tokens=0)
    with pytest.raises(QuotaError):
        world.account.admit("m", tokens=0)
    charge.cancel()
    world.account.admit("m", tokens=0)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_minute": 0}])
def test_a_limit_of_nothing_lets_nothing_pass(limits: dict[str, int]) -> None:
    with pytest.raises(RateLimitError):
        World(**limits).account.admit("m", tokens=1)


def test_without_limits_there_are_no_headers() -> None:
    assert World().headers() == {}


def test_other_models_are_forbidden() -> None:
    world = World(("m",))
    world.account.admit("m", tokens=0)
    for model in ("M", "m ", "m:lora", "n"):
        with pytest.raises(ForbiddenError) as caught:
            world.account.admit(model, tokens=0)
        assert caught.value.status == 403


def test_one_request_counts_once_however_many_it_makes() -> None:
    world = World(requests_per_minute=5)
    caller = Caller(world.account)
    for _ in range(3):
        caller.admit("m", tokens=0).settle(prompt=2, completion=0)
    assert world.headers()["x-ratelimit-remaining-requests"] == "4"
    assert (world.day.requests, world.day.tokens) == (1, 6)


def test_a_changed_limit_holds_at_once() -> None:
    world = World(requests_per_minute=5)
    world.account.admit("m", tokens=0)
    key = dataclasses.replace(world.account.key, limits=Limits(requests_per_minute=1))
    world.account.change(key)
    with pytest.raises(RateLimitError):
        world.account.admit("m", tokens=0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, b"0s"), (0.25, b"250ms"), (1, b"1s"), (59.2, b"1m0s"), (360, b"6m0s"), (3661, b"1h1m1s")],
)
def test_times_are_written_as_openai_does(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text
