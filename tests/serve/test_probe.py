import pytest
from fake_endpoint import FakeEndpoint

from fastchat.errors import UnavailableError
from fastchat.serve import probe
from fastchat.serve.endpoints import Endpoint


@pytest.mark.parametrize(
    ("mode", "alive"), [("answer", True), ("silent", True), ("busy", True), ("hung", False)]
)
async def test_health_is_what_an_endpoint_says_or_its_silence(mode: str, alive: bool) -> None:
    async with FakeEndpoint("m") as endpoint:
        endpoint.mode = mode
        assert await probe.is_alive(endpoint.url, timeout_s=0.5) is alive


async def test_nobody_listening_is_not_alive() -> None:
    async with FakeEndpoint("m") as endpoint:
        url = endpoint.url
    assert not await probe.is_alive(url)


async def test_names_given_by_hand_survive_a_refresh_by_an_endpoint_that_lists_others() -> None:
    async with FakeEndpoint("m") as endpoint:
        body = {"worker_name": endpoint.url, "check_heart_beat": False, "model_names": ["mine"]}
        report = await probe.ask_status(body)
        assert report.endpoint.model_names == ("mine",)
        again = await probe.refresh(report.endpoint)
        assert again.endpoint.model_names == ("mine",)


async def test_a_listed_name_follows_what_the_endpoint_lists() -> None:
    async with FakeEndpoint("old") as endpoint:
        body = {"worker_name": endpoint.url, "check_heart_beat": False}
        report = await probe.ask_status(body)
        endpoint.models = ("new",)
        again = await probe.refresh(report.endpoint)
        assert again.endpoint.model_names == ("new",)
        assert again.endpoint.context_length("new") == 64


async def test_an_endpoint_that_does_not_answer_cannot_be_refreshed() -> None:
    async with FakeEndpoint("m") as endpoint:
        endpoint.mode = "hung"
        known = Endpoint(name=endpoint.url, model_names=("m",))
        with pytest.raises(UnavailableError):
            await probe.refresh(known, timeout_s=0.2)
