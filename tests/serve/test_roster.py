import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from fake_endpoint import FakeEndpoint
from live import LIMIT_S, serving, until

from fastchat.serve import probe, watch
from fastchat.serve import roster as roster_module
from fastchat.serve.controller import ControllerSettings, create_app
from fastchat.serve.endpoints import Endpoint
from fastchat.serve.roster import Roster, context_length
from fastchat.serve.router import Change, Listing


def listing(name: str, *models: str, queue_length: int = 0) -> Listing:
    endpoint = Endpoint(name=name, model_names=models or ("m",))
    return Listing(endpoint=endpoint, queue_length=queue_length)


def table(*listings: Listing) -> dict[str, Listing]:
    return {one.endpoint.name: one for one in listings}


@contextlib.asynccontextmanager
async def running(roster: Roster) -> AsyncIterator[Roster]:
    await roster.start()
    try:
        yield roster
    finally:
        await roster.stop()


def names(roster: Roster) -> list[str]:
    return [endpoint.name for endpoint in roster.router.endpoints()]


def test_the_same_controller_takes_away_what_it_does_not_list() -> None:
    roster = Roster("http://localhost:1")
    assert not roster.has_table
    roster.take_snapshot(table(listing("http://a:1"), listing("http://b:1")), "one", 90)
    roster.take_snapshot(table(listing("http://b:1")), "one", 90)
    assert roster.has_table
    assert names(roster) == ["http://b:1"]


def test_a_new_controller_takes_nothing_away_before_its_expiry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roster = Roster("http://localhost:1")
    roster.take_snapshot(table(listing("http://a:1"), listing("http://b:1")), "one", 90)
    roster.take_snapshot(table(), "two", 90)
    assert names(roster) == ["http://a:1", "http://b:1"]
    roster.take_snapshot(table(listing("http://a:1")), "two", 90)  # after another break
    assert names(roster) == ["http://a:1", "http://b:1"]
    roster.take_change(Change(name="http://b:1", listing=None))  # said in so many words
    assert names(roster) == ["http://a:1"]


async def test_what_a_new_controller_never_hears_of_is_forgotten() -> None:
    roster = Roster(None)
    roster.take_snapshot(table(listing("http://a:1"), listing("http://b:1")), "one", 90)
    roster.take_snapshot(table(listing("http://b:1")), "two", 0.0)
    async with running(roster):
        await until(lambda: names(roster) == ["http://b:1"])


@pytest.mark.slow
async def test_what_was_registered_by_hand_stays_while_it_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(roster_module, "REMIND_EVERY_S", 0.0)
    monkeypatch.setattr(roster_module, "CHECK_EVERY_S", 0.02)
    probed = Endpoint(name="http://127.0.0.1:1", model_names=("m",), check="probe")
    roster = Roster(None)
    roster.take_snapshot(table(Listing(endpoint=probed)), "one", 90)
    roster.take_snapshot(table(), "two", 0.0)
    async with running(roster):
        await until(lambda: caplog.text.count("register it again") > 2)
        assert names(roster) == [probed.name]
        roster.router.report_failure(probed.name, now=0)  # nobody listens there
        await until(lambda: names(roster) == [])


def test_a_listing_that_only_reports_load_does_not_excuse_a_failure() -> None:
    roster = Roster(None)
    roster.take_change(Change(name="http://a:1", listing=listing("http://a:1")))
    roster.router.report_failure("http://a:1", now=0)
    busy = listing("http://a:1", queue_length=4)
    roster.take_change(Change(name="http://a:1", listing=busy))
    assert roster.router.has_failed("http://a:1")
    assert roster.router.load("http://a:1") == 4
    changed = listing("http://a:1", "new")
    roster.take_change(Change(name="http://a:1", listing=changed))
    assert not roster.router.has_failed("http://a:1")
    assert roster.router.models() == ["new"]


@pytest.mark.slow
async def test_a_failed_endpoint_is_asked_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roster_module, "CHECK_EVERY_S", 0.05)
    asked: list[bool] = []
    is_alive = probe.is_alive

    async def noted(name: str, *, timeout_s: float) -> bool:
        asked.append(await is_alive(name, timeout_s=timeout_s))
        return asked[-1]

    monkeypatch.setattr(probe, "is_alive", noted)
    async with FakeEndpoint("m") as endpoint:
        roster = Roster(None)
        roster.take_change(Change(name=endpoint.url, listing=listing(endpoint.url)))
        roster.router.report_failure(endpoint.url, now=0)
        await endpoint.close()
        async with running(roster):
            await until(lambda: len(asked) > 2)
            assert asked[:3] == [False] * 3 and roster.router.has_failed(endpoint.url)
            await endpoint.listen()
            await until(lambda: not roster.router.has_failed(endpoint.url))


async def test_who_is_up_is_known_when_the_gateway_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roster_module, "FIRST_LOOK_S", LIMIT_S)
    settings = ControllerSettings(host="127.0.0.1")
    async with FakeEndpoint("m") as by_hand, FakeEndpoint("n") as registered:
        app = create_app(settings)
        async with serving(app) as url:
            body = {"worker_name": registered.url, "check_heart_beat": False}
            await app.state.controller.registry.register(body, peer=None, local=None)
            async with running(Roster(url, [by_hand.url])) as roster:
                assert sorted(roster.router.models()) == ["m", "n"]


async def test_one_that_hangs_does_not_keep_a_gateway_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastchat.serve.roster.FIRST_LOOK_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with running(Roster(url, [url])) as roster:
            assert roster.router.models() == []


@pytest.mark.slow
async def test_an_endpoint_given_by_hand_is_found_when_it_starts_and_followed() -> None:
    async with FakeEndpoint("m") as endpoint:
        await endpoint.close()
        async with running(Roster(None, [endpoint.url])) as roster:
            assert roster.router.models() == [] and roster.is_connected
            await endpoint.listen()
            await until(lambda: roster.router.models() == ["m"])


@pytest.mark.slow
async def test_a_controller_is_followed_through_its_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RETRY_S", (0.05,))
    async with FakeEndpoint("m") as endpoint:
        settings = ControllerSettings(host="127.0.0.1")
        app = create_app(settings)
        async with contextlib.AsyncExitStack() as stack:
            url = await stack.enter_async_context(serving(app))
            roster = await stack.enter_async_context(running(Roster(url)))
            await until(lambda: roster.is_connected)
            body = {"worker_name": endpoint.url, "check_heart_beat": False}
            await app.state.controller.registry.register(body, peer=None, local=None)
            await until(lambda: roster.router.models() == ["m"])
            await app.state.controller.registry.feed.close()
            await until(lambda: not roster.is_connected)
            assert roster.router.models() == ["m"]
            assert roster.pick("m") is not None


async def test_what_is_no_controller_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RETRY_S", (0.02,))
    async with FakeEndpoint("m") as endpoint, running(Roster(endpoint.url)) as roster:
        await until(lambda: endpoint.paths.count("/watch") > 3)
        assert not roster.has_table and not roster.is_connected


def test_the_context_is_the_smallest_that_is_known() -> None:
    def has(length: int | None) -> Endpoint:
        lengths = (("m", length),) if length else ()
        return Endpoint(name="http://a:1", model_names=("m",), context_lengths=lengths)

    assert context_length([has(8), has(4), has(None)], "m") == 4
    assert context_length([has(None)], "m") is None
    assert context_length([], "m") is None
