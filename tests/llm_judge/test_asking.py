import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.errors import ModelError, UnavailableError
from fastchat.llm_judge.account import Account, CeilingError
from fastchat.llm_judge.asking import (
    ApiModel,
    Cache,
    EngineModel,
    RefusedError,
    Reply,
    Request,
)
from fastchat.llm_judge.endpoints import EndpointSettings, endpoint_of
from fastchat.llm_judge.running import run_all
from fastchat.message import Message

ASKED = Request(messages=(Message(role="user", text="Why?"),), temperature=0.0, max_tokens=50)


def model_at(fake, *, cache: Cache | None = None, account: Account | None = None, **flags: Any):
    given = {"max_tries": 3, "retry_wait_s": 0.001, "api_base": fake.url, **flags}
    settings = EndpointSettings(**given)
    endpoint = endpoint_of("rule", settings)
    held = account or Account(max_cost=settings.max_cost)
    return ApiModel("rule", endpoint, settings, account=held, cache=cache)


def scripted(*replies: Any):
    """One reply after another, the last for ever."""
    left = list(replies)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


async def asked(model: ApiModel, request: Request = ASKED) -> Reply:
    try:
        return await model.ask(request)
    finally:
        await model.close()


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_what_may_pass_is_tried_again_and_counted(fake, status: int) -> None:
    fake.rule = scripted((status, {}), (status, {}), "[[A]]")
    model = model_at(fake)
    assert (await asked(model)).text == "[[A]]"
    assert len(fake.bodies) == 3
    assert model.account.summary()["retried_for"] == {f"HTTP {status}": 2}
    assert model.account.n_asked == 1


async def test_after_the_last_try_the_failure_says_why(fake) -> None:
    fake.rule = lambda _: (500, {})
    with pytest.raises(UnavailableError, match="HTTP 500 in each of 3 tries"):
        await asked(model_at(fake))
    assert len(fake.bodies) == 3


async def test_a_reply_that_never_comes_is_a_timeout(fake) -> None:
    fake.rule = lambda _: None
    with pytest.raises(UnavailableError, match="timeout in each of 2 tries"):
        await asked(model_at(fake, max_tries=2, request_timeout_s=0.05))


async def test_nobody_there_is_a_lost_connection(fake) -> None:
    model = model_at(fake, api_base="http://127.0.0.1:9/v1", max_tries=2)
    with pytest.raises(UnavailableError, match="no connection in each of 2 tries"):
        await asked(model)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_wrong_key_or_model_is_not_tried_again(fake, status: int) -> None:
    fake.rule = lambda _: (status, {})
    with pytest.raises(RefusedError, match=f"answered {status} for rule: the fake judge fails"):
        await asked(model_at(fake))
    assert len(fake.bodies) == 1


async def test_a_request_that_is_refused_fails_alone(fake) -> None:
    fake.rule = lambda _: (400, {})
    with pytest.raises(ModelError, match="answered 400"):
        await asked(model_at(fake))


async def test_parameters_a_server_does_not_know_are_left_out_from_then_on(fake) -> None:
    fake.refuses = {"response_format", "seed", "temperature"}
    model = model_at(fake)
    request = replace(ASKED, seed=3, schema={"type": "object"})
    for _ in range(2):
        await model.ask(request)
    await model.close()
    assert all(set(body) == {"model", "messages", "max_tokens"} for body in fake.bodies)
    assert len(fake.bodies) == 2
    left_out = ["response_format", "seed", "temperature"]
    assert model.account.summary()["parameters_left_out"] == left_out


async def test_many_at_once_that_meet_the_refusal_all_get_through(fake) -> None:
    model = model_at(fake)
    requests = [replace(ASKED, seed=i, schema={"type": "object"}) for i in range(8)]
    await asyncio.gather(*map(model.ask, requests))
    await model.close()
    assert len(fake.bodies) == 8


async def test_a_cached_reply_survives_the_process_and_is_not_asked_for(fake, tmp_path) -> None:
    path = tmp_path / "cache.jsonl"
    fake.rule = scripted("one", "two", "three")
    for _ in range(2):
        model = model_at(fake, cache=Cache(path))
        assert (await asked(model)).text == "one"
    assert model.account.n_from_cache == 1
    model = model_at(fake, cache=Cache(path))
    assert (await asked(model, replace(ASKED, is_fresh=True))).text == "two"
    model = model_at(fake, cache=Cache(path, is_read=False))
    assert (await asked(model)).text == "three"


def test_requests_are_the_same_by_their_content_and_model() -> None:
    other = replace(ASKED, messages=(Message(role="user", text="How?"),))
    keys = {ASKED.key("a"), ASKED.key("b"), other.key("a"), replace(ASKED, seed=1).key("a")}
    assert len(keys) == 4
    assert ASKED.key("a") == replace(ASKED, is_fresh=True).key("a")


async def test_cost_is_counted_from_the_usage_that_is_reported(fake) -> None:
    model = model_at(fake, price_input=3.0, price_output=15.0)
    await asked(model)
    assert model.account.cost == pytest.approx((100 * 3 + 10 * 15) / 1e6)
    assert model.account.summary()["reported_models"] == ["rule-1"]


async def test_a_server_that_does_not_count_is_not_free(fake) -> None:
    fake.counts_tokens = False
    model = model_at(fake, price_input=3.0, price_output=15.0)
    reply = await asked(model)
    assert reply.prompt_tokens > 0 and reply.completion_tokens > 0
    assert model.account.cost == pytest.approx(
        (reply.prompt_tokens * 3 + reply.completion_tokens * 15) / 1e6
    )


async def test_the_ceiling_is_never_passed_and_waits_for_what_is_in_the_air(fake) -> None:
    flags: Any = {"price_input": 0.0, "price_output": 1e6 / 50}  # 50 tokens may cost a dollar
    fake.together = 2
    model = model_at(fake, max_cost=2.0, **flags)
    done: list[int] = []

    async def work(i: int) -> None:
        await model.ask(replace(ASKED, seed=i))
        done.append(i)

    outcome = await run_all(range(40), work, name_of=str, concurrency=8)
    await model.close()
    assert isinstance(outcome.stopped, CeilingError)
    assert "Results so far are kept" in outcome.stopped.message
    # 10 tokens a reply, 0.2 dollars: after 6 the next one, at worst 1 dollar, no longer fits.
    assert len(done) == len(fake.bodies) == 6
    assert model.account.cost == pytest.approx(1.2)
    assert fake.most_waiting == 2


async def test_an_endpoint_that_is_dead_ends_the_run(fake) -> None:
    fake.rule = lambda _: (503, {})
    model = model_at(fake, max_tries=1)
    outcome = await run_all(
        range(100),
        lambda i: _ignore(model.ask(replace(ASKED, seed=i))),
        name_of=str,
        concurrency=4,
    )
    await model.close()
    assert outcome.stopped is not None and "8 failures without an answer" in outcome.stopped.message
    assert len(fake.bodies) <= 12
    assert "HTTP 503" in outcome.report("remedy")[0]


async def _ignore(reply) -> None:
    await reply


async def test_an_engine_uses_what_room_there_is_and_reports_its_failures() -> None:
    engine = EchoEngine(EchoOptions(context=60, fail_on="bad"))
    model = EngineModel("echo", engine, account=Account())
    text = "a" * 30
    reply = await model.ask(replace(ASKED, messages=(Message(role="user", text=text),)))
    assert reply.text.startswith("a" * 10) and reply.finish_reason in ("stop", "length")
    with pytest.raises(ModelError, match="echo"):
        await model.ask(replace(ASKED, messages=(Message(role="user", text="bad"),)))
    await model.close()


def test_a_file_of_endpoints_gives_each_model_its_own(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text('{"m": {"api_base": "http://u:p@h:1/v1?k=s", "price_input": 2}}')
    settings = EndpointSettings(endpoints=path, price_input=1.0, price_output=4.0)
    found = endpoint_of("m", settings)
    assert (found.shown, found.price_input, found.price_output) == ("http://h:1/v1", 2, 4.0)
    assert endpoint_of("other", settings).shown == "https://api.openai.com/v1"
    assert "secret" not in repr(EndpointSettings(api_key="secret"))


@pytest.mark.parametrize(
    ("api_base", "url", "names"),
    [
        ("http://h:1/v1", "http://h:1/v1/chat/completions", {"authorization"}),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions", {"authorization"}),
        (
            "https://mine.openai.azure.com/openai/deployments/judge?api-version=2024-10-21",
            "https://mine.openai.azure.com/openai/deployments/judge/chat/completions"
            "?api-version=2024-10-21",
            {"authorization", "api-key"},
        ),
        (
            "https://mine.openai.azure.com/openai/v1/",
            "https://mine.openai.azure.com/openai/v1/chat/completions",
            {"authorization", "api-key"},
        ),
        (
            "https://api.anthropic.com/v1",
            "https://api.anthropic.com/v1/chat/completions",
            {"authorization"},
        ),
    ],
)
def test_each_kind_of_provider_has_its_address_and_key(
    api_base: str, url: str, names: set[str]
) -> None:
    endpoint = endpoint_of("m", EndpointSettings(api_base=api_base, api_key="k"))
    assert endpoint.chat_url == url and set(endpoint.headers) == names
    assert "api-version" not in endpoint.shown
