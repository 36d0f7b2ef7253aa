"""Where the page finds its models."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from live import LIMIT_S

from fastchat.errors import UnavailableError
from fastchat.web import models
from fastchat.web.models import Listing, Model, ModelDirectory, Source, is_near, public_address

OpenDirectory = Callable[..., ModelDirectory]
NOBODY = "http://127.0.0.1:9"


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
async def open_directory() -> AsyncIterator[OpenDirectory]:
    opened: list[ModelDirectory] = []

    def open_one(now: Any = time.monotonic, **source: Any) -> ModelDirectory:
        opened.append(ModelDirectory(Source(**source), now=now))
        return opened[-1]

    yield open_one
    for directory in opened:
        await directory.close()


async def test_models_are_listed_in_order_with_their_context(
    fake: Any, open_directory: OpenDirectory
) -> None:
    fake.models = [{"id": "beta", "max_model_len": 512}, {"id": "Alpha", "context_length": 64}]
    listing = await open_directory(api_url=fake.url).listing()
    expected = (Model(name="Alpha", context_length=64), Model(name="beta", context_length=512))
    assert listing.models == expected
    assert listing.find("beta") == expected[1]
    assert listing.find("gamma") is None


async def test_models_of_an_endpoint_file_are_shown_as_it_says(
    fake: Any, open_directory: OpenDirectory
) -> None:
    told = {"anony_only": True, "text_arena": False}
    fake.models = [{"id": "paid", "multimodal": True, "fastchat": told}, {"id": "free"}]
    listing = await open_directory(api_url=fake.url).listing()
    free, paid = listing.models
    assert (paid.only_anonymous, paid.answers_text, paid.sees_images) == (True, False, True)
    assert (free.only_anonymous, free.answers_text, free.sees_images) == (False, True, False)
    assert [model.name for model in listing.visible().models] == ["free"]


async def test_the_list_follows_what_comes_and_goes(
    fake: Any, open_directory: OpenDirectory
) -> None:
    clock = Clock()
    directory = open_directory(now=clock, api_url=fake.url)
    assert [m.name for m in (await directory.listing()).models] == ["parrot"]
    fake.models = []
    assert len((await directory.listing()).models) == 1, "a moment old is new enough"
    clock.time += models.CACHE_S
    assert (await directory.listing()).models == ()


async def test_a_list_that_does_not_come_in_time_takes_no_models_away_for_a_while(
    fake: Any, open_directory: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    directory = open_directory(now=clock, api_url=fake.url)
    known = await directory.listing()
    monkeypatch.setattr(models, "LIST_TIMEOUT_S", 0.05)
    fake.lists = False
    clock.time = models.KEPT_S - models.CACHE_S
    assert await directory.listing() == known
    clock.time = models.KEPT_S
    late = await directory.listing()
    assert (late.models, late.problem) == ((), "unreachable")
    clock.time += 10.0
    assert (await directory.listing()).problem == "unreachable"
    monkeypatch.setattr(models, "LIST_TIMEOUT_S", LIMIT_S)
    fake.lists = True
    clock.time += 10.0
    assert await directory.listing() == known


async def test_a_list_that_never_came_is_a_problem(
    fake: Any, open_directory: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "LIST_TIMEOUT_S", 0.05)
    fake.lists = False
    assert (await open_directory(api_url=fake.url).listing()).problem == "unreachable"


async def test_the_first_list_can_be_kept(fake: Any, open_directory: OpenDirectory) -> None:
    clock = Clock()
    fake.models, later = [], fake.models
    directory = open_directory(now=clock, api_url=fake.url, keeps_first_list=True)
    assert (await directory.listing()).models == ()
    clock.time, fake.models = 10, later
    assert len((await directory.listing()).models) == 1
    clock.time, fake.models = 20, []
    assert len((await directory.listing()).models) == 1


async def test_a_gateway_that_is_not_there_is_a_problem_and_no_error(
    open_directory: OpenDirectory,
) -> None:
    listing = await open_directory(api_url=NOBODY + "/v1", controller_url=NOBODY).listing()
    assert listing == Listing(where="127.0.0.1:9", problem="unreachable")


async def test_the_key_is_sent_to_the_gateway(fake: Any, open_directory: OpenDirectory) -> None:
    await open_directory(api_url=fake.url, api_key="secret").listing()
    assert fake.headers[-1]["Authorization"] == "Bearer secret"


async def test_without_a_gateway_the_controller_names_the_workers(
    fake: Any, open_directory: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "DEFAULT_API_URL", NOBODY + "/v1")
    directory = open_directory(controller_url=fake.root, api_key="secret")
    client = await directory.client_for("parrot")
    assert str(client.base_url) == fake.url + "/"
    assert [m.name for m in (await directory.listing()).models] == ["parrot"]
    assert client.api_key == models.NO_KEY, "the gateway's key is for the gateway alone"
    with pytest.raises(UnavailableError):
        await directory.client_for("nobody")


async def test_a_gateway_that_answers_comes_before_the_controller(
    fake: Any, open_directory: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "DEFAULT_API_URL", fake.url)
    directory = open_directory(controller_url=NOBODY)
    assert str((await directory.client_for("parrot")).base_url) == fake.url + "/"


async def test_a_named_gateway_is_never_replaced_by_the_controller(
    fake: Any, open_directory: OpenDirectory
) -> None:
    directory = open_directory(api_url=NOBODY + "/v1", controller_url=fake.root)
    assert (await directory.listing()).problem == "unreachable"


async def test_something_else_behind_the_address_is_a_problem(
    fake: Any, open_directory: OpenDirectory
) -> None:
    assert (await open_directory(api_url=fake.root + "/else").listing()).problem == "unreachable"


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:1", True),
        ("http://10.1.2.3:8000", True),
        ("http://gateway:8000", True),
        ("http://8.8.8.8", False),
        ("https://api.example.com/v1", False),
    ],
)
def test_proxies_are_for_distant_hosts(url: str, near: bool) -> None:
    assert is_near(url) is near


def test_an_address_is_shown_without_its_secrets() -> None:
    assert public_address("https://me:secret@example.com:8443/v1?key=x") == "example.com:8443"
