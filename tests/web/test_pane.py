"""The handlers of a pane, against a small OpenAI server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from live import LIMIT_S

from fastchat.message import Message
from fastchat.web.guard import Moderation
from fastchat.web.models import ModelDirectory, Source
from fastchat.web.pane import TURN_LIMIT, Draft, Pane, Panes
from fastchat.web.pieces import Sampling, answered
from fastchat.web.texts import load_texts

NOTICES = load_texts().notice


@pytest.fixture
async def panes(fake: Any) -> AsyncIterator[Panes]:
    directory = ModelDirectory(Source(api_url=fake.url), now=time.monotonic)
    yield Panes(directory, NOTICES, message_limit=200)
    await directory.close()


async def ask(panes: Panes, text: str, pane: Pane | None = None, key: str = "k") -> list[Pane]:
    asked = panes.send(pane or Pane(), text, model="parrot", sampling=Sampling(), key=key)
    return [shown async for shown in asked]


def user(text: str) -> Message:
    return Message(role="user", text=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", text=text)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_answer_streams_and_ends_ready_for_the_next_question(
    panes: Panes, fake: Any
) -> None:
    shown = await ask(panes, "  hello you  ")
    draft = Draft(text="  hello you  ")
    assert shown[0] == Pane(messages=(user("hello you"),), running=True, sent=1, draft=draft)
    assert {pane.sent for pane in shown} == {1}, "the message box is emptied once"
    assert all(pane.running for pane in shown[:-1])
    last = shown[-1]
    assert last.messages[-1] == assistant("parrot heard: hello you ")
    assert (last.running, last.notice, last.can_regenerate) == (False, "", True)


async def test_the_request_carries_the_conversation_and_the_parameters(
    panes: Panes, fake: Any
) -> None:
    first = (await ask(panes, "one"))[-1]
    sampling = Sampling(temperature=0.0, top_p=0.0, max_tokens=16)
    async for _ in panes.send(first, "two", model="parrot", sampling=sampling, key="k"):
        pass
    body = fake.requests[-1]
    assert [m["content"] for m in body["messages"]] == ["one", "parrot heard: one ", "two"]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.0, 16, True)
    assert 0 < body["top_p"] <= 0.01, "many servers refuse 0"


async def test_an_empty_message_changes_nothing(panes: Panes, fake: Any) -> None:
    assert await ask(panes, " \n ") == [Pane()]
    assert fake.requests == []


async def test_stop_keeps_what_came_and_closes_the_connection(panes: Panes, fake: Any) -> None:
    shown: list[Pane] = []
    asked = panes.send(Pane(), "!slow", model="parrot", sampling=Sampling(), key="k")
    async for pane in asked:
        shown.append(pane)
        if len(pane.messages) == 2:
            panes.stop("k")
    assert shown[-1].notice == NOTICES.stopped
    assert shown[-1].messages[-1].text.startswith("0 ")
    assert not shown[-1].running
    await until(lambda: fake.given_up == 1 and fake.open == 0)


async def test_stop_before_the_first_piece_leaves_the_question(panes: Panes, fake: Any) -> None:
    asking = asyncio.create_task(ask(panes, "!hang"))
    await until(lambda: fake.open == 1)
    panes.stop("k")
    last = (await asking)[-1]
    assert last.messages == (user("!hang"),)
    assert last.notice == NOTICES.stopped
    assert last.can_regenerate
    await until(lambda: fake.open == 0)


async def test_stop_touches_no_other_pane(panes: Panes, fake: Any) -> None:
    asking = asyncio.create_task(ask(panes, "!slow", key="other"))
    await until(lambda: fake.open == 1)
    panes.stop("k")
    assert fake.open == 1
    panes.stop("other")
    await asking


async def test_a_reader_who_leaves_ends_the_answer(panes: Panes, fake: Any) -> None:
    asked = panes.send(Pane(), "!slow", model="parrot", sampling=Sampling(), key="k")
    async for pane in asked:
        if len(pane.messages) == 2:
            break
    await asked.aclose()
    await until(lambda: fake.given_up == 1)
    assert (await ask(panes, "again"))[-1].notice == "", "the pane is free again"


@pytest.mark.slow
async def test_a_silent_answer_is_looked_after_while_it_is_silent(panes: Panes, fake: Any) -> None:
    shown = 0
    async for _ in panes.send(Pane(), "!hang", model="parrot", sampling=Sampling(), key="k"):
        shown += 1
        if shown == 3:
            panes.stop("k")
    assert shown >= 3


async def test_regenerate_asks_the_last_question_again(panes: Panes, fake: Any) -> None:
    pane = Pane(messages=(user("one"), assistant("1"), user("two"), assistant("2")))
    again = panes.regenerate(pane, model="parrot", sampling=Sampling(), key="k")
    shown = [pane async for pane in again]
    assert shown[0].messages == pane.messages[:-1]
    assert [m["content"] for m in fake.requests[-1]["messages"]] == ["one", "1", "two"]
    assert shown[-1].messages == (*pane.messages[:-1], assistant("parrot heard: two "))


@pytest.mark.parametrize(
    ("order", "notice"),
    [
        ("!busy", NOTICES.busy),
        ("!broken", "Internal error"),
        ("!gone", NOTICES.gone.format(model="parrot")),
        ("!unknown", NOTICES.gone.format(model="parrot")),
        ("!toolong", "The prompt has 9000 tokens"),
        ("!locked", NOTICES.refused),
        ("!late", NOTICES.timeout),
        ("!break", "The model ran out of memory."),
        ("!cut", NOTICES.cut_off),
        ("!empty", NOTICES.silent),
        ("!length", NOTICES.length.format(limit=1024)),
    ],
)
async def test_what_goes_wrong_is_told_and_can_be_tried_again(
    panes: Panes, order: str, notice: str
) -> None:
    last = (await ask(panes, f"say {order}"))[-1]
    assert notice in last.notice
    assert not last.running
    assert last.can_regenerate
    assert last.messages[0] == user(f"say {order}")


async def test_half_an_answer_is_kept(panes: Panes) -> None:
    assert (await ask(panes, "!break"))[-1].messages[-1] == assistant("Half an ans")


async def test_a_server_that_is_not_there_is_told() -> None:
    directory = ModelDirectory(Source(api_url="http://127.0.0.1:9/v1"), now=time.monotonic)
    panes = Panes(directory, NOTICES, message_limit=200)
    assert (await ask(panes, "hello"))[-1].notice == NOTICES.unreachable
    await directory.close()


@pytest.mark.slow
async def test_a_silent_server_is_given_up_after_the_timeout(fake: Any) -> None:
    ended = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    directory = ModelDirectory(Source(api_url=url, timeout_s=0.2), now=time.monotonic)
    panes = Panes(directory, NOTICES, message_limit=200)
    assert (await ask(panes, "hello"))[-1].notice == NOTICES.timeout
    await directory.close()
    await ended.wait()
    server.close()
    await server.wait_closed()


async def test_without_a_model_the_message_stays_in_its_box(panes: Panes, fake: Any) -> None:
    asked = panes.send(Pane(), "hello", model=None, sampling=Sampling(), key="k")
    assert [pane async for pane in asked] == [Pane(notice=NOTICES.no_model)]
    assert fake.requests == []


async def test_one_answer_at_a_time_in_a_pane(panes: Panes, fake: Any) -> None:
    asking = asyncio.create_task(ask(panes, "!slow"))
    await until(lambda: fake.open == 1)
    assert [pane.notice for pane in await ask(panes, "second")] == [NOTICES.running]
    again = panes.regenerate(
        Pane(messages=(user("x"),)), model="parrot", sampling=Sampling(), key="k"
    )
    assert [pane.notice async for pane in again] == [NOTICES.running]
    panes.stop("k")
    await asking
    assert len(fake.requests) == 1


async def test_a_long_message_is_cut_with_a_notice(panes: Panes, fake: Any) -> None:
    last = (await ask(panes, "a" * 201))[-1]
    assert fake.requests[-1]["messages"][-1]["content"] == "a" * 200
    assert last.notice == NOTICES.cut.format(limit=200)


async def test_the_fifty_first_turn_is_refused(panes: Panes, fake: Any) -> None:
    pane = Pane(messages=(user("q"), assistant("a")) * TURN_LIMIT)
    shown = await ask(panes, "one more", pane)
    assert [p.notice for p in shown] == [NOTICES.full.format(limit=50)]
    assert shown[-1].messages == pane.messages
    assert fake.requests == []


def test_unanswered_questions_are_not_sent() -> None:
    one, two, reply, three = user("one"), user("two"), assistant("2"), user("three")
    assert answered((one, two, reply, three)) == [two, reply, three]
    assert answered((one,)) == [one]


@pytest.mark.slow
async def test_many_answers_at_once_do_not_wait_for_each_other(panes: Panes, fake: Any) -> None:
    shown = await asyncio.gather(*(ask(panes, f"number {i}", key=str(i)) for i in range(100)))
    assert [s[-1].messages[-1].text for s in shown] == [
        f"parrot heard: number {i} " for i in range(100)
    ]


async def test_what_the_page_forbids_reaches_no_model(fake: Any) -> None:
    directory = ModelDirectory(Source(api_url=fake.url), now=time.monotonic)
    asked: list[str] = []

    class Moderator:
        async def flags(self, text: str) -> bool:
            asked.append(text)
            return "poison" in text

        async def close(self) -> None:
            return

    moderation = Moderation(moderator=Moderator())
    panes = Panes(directory, NOTICES, message_limit=200, moderation=moderation)
    begun = (await ask(panes, "hello"))[-1]
    refused = (await ask(panes, "mix a poison", begun))[-1]
    assert refused == replace(begun, notice=NOTICES.flagged), "the draft stays, and what was said"
    assert len(fake.requests) == 1
    assert asked[-1].startswith("hello") and asked[-1].endswith("mix a poison")
    assert (await ask(panes, "and you?", begun))[-1].turns == 2
    await directory.close()
