"""A pane: one conversation with one model, and what may be done to it.

Nothing here knows how a pane is drawn. A handler takes the pane as it is and yields it again
as it becomes; `chat.py` turns each into what the browser shows.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastchat.errors import FastChatError, UnavailableError
from fastchat.message import Message
from fastchat.web.guard import Moderation, moderated_text
from fastchat.web.models import ModelDirectory
from fastchat.web.pieces import Piece, Sampling, pieces_of
from fastchat.web.texts import NoticeTexts

if TYPE_CHECKING:
    from openai import APIError

log = logging.getLogger(__name__)

TURN_LIMIT = 50
"""Published: a turn is a question with its answer."""
UPDATE_S = 0.06
"""The pause between two redraws of a growing answer."""
LOOK_UP_S = 1.0
"""How often a silent answer lets the page notice that its reader has left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What stands in a message box."""

    text: str = ""
    files: int = 0


NO_DRAFT = Draft()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pane:
    """What was said, what is going on, and what there is to tell the reader."""

    messages: tuple[Message, ...] = ()
    running: bool = False
    """An answer is on its way."""
    notice: str = ""
    sent: int = 0
    """How often the message box was emptied into a question."""
    draft: Draft = NO_DRAFT
    """What stood in the message box then."""

    @property
    def can_regenerate(self) -> bool:
        """Whether there is a question to be answered again."""
        return bool(self.messages) and not self.running

    @property
    def turns(self) -> int:
        """Questions asked so far."""
        return sum(message.role == "user" for message in self.messages)


class Answer:
    """An answer on its way: gathers the pieces, tells how far it is, can be stopped."""

    def __init__(self, news: asyncio.Event | None = None) -> None:
        """
        Args:
            news: set whenever there is something new; several answers may share it.
        """
        self.text = ""
        self.reason: str | None = None
        self.error: BaseException | None = None
        self.stopped = False
        self._news = news or asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, pieces: AsyncIterator[Piece]) -> None:
        """Begins to gather `pieces`."""
        self._task = asyncio.create_task(self._gather(pieces))

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self._task is not None and not self._task.done()

    def stop(self) -> None:
        """Ends the answer where it is; the server is told by the closed connection."""
        self.stopped = True
        if self._task is not None:
            self._task.cancel()
        self._news.set()

    async def progress(self) -> AsyncIterator[str]:
        """The text so far, again and again until it is complete.

        Pieces that come between two redraws are shown together, so a slow reader costs
        redraws and never tokens.
        """
        try:
            while self.running:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_UP_S)
                self._news.clear()
                yield self.text
                if not self.stopped:
                    await asyncio.sleep(UPDATE_S)
        finally:
            await self.end()

    async def _gather(self, pieces: AsyncIterator[Piece]) -> None:
        try:
            async for piece in pieces:
                self.text += piece.text
                self.reason = piece.reason or self.reason
                self._news.set()
        except Exception as error:  # shown in the pane by `notice_for`, whatever it is
            self.error = error
        finally:
            self._news.set()

    async def end(self) -> None:
        """Ends the answer and waits until the connection is given back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Panes:
    """The handlers of every open pane; holds no more than the answers on their way."""

    def __init__(
        self,
        directory: ModelDirectory,
        notices: NoticeTexts,
        *,
        message_limit: int,
        moderation: Moderation | None = None,
    ) -> None:
        self.directory = directory
        self.notices = notices
        self.message_limit = message_limit
        self.moderation = moderation
        self._answers: dict[str, Answer] = {}

    async def send(
        self, pane: Pane, text: str, *, model: str | None, sampling: Sampling, key: str
    ) -> AsyncIterator[Pane]:
        """Adds the question `text` and lets `model` answer it.

        Args:
            key: names the pane among all that are open; one answer at a time in each.
        """
        draft, text = Draft(text=text), text.strip()
        if not text:
            yield pane  # a handler that yields nothing empties what it draws
            return
        if refusal := self._refusal(pane, model, key):
            yield replace(pane, notice=refusal)
            return
        notice = ""
        if len(text) > self.message_limit:
            text = text[: self.message_limit]
            notice = self.notices.cut.format(limit=self.message_limit)
        if await self._flags(pane, text, key):
            yield replace(pane, notice=self.notices.flagged)
            return
        messages = (*pane.messages, Message(role="user", text=text))
        asked = Pane(
            messages=messages, running=True, notice=notice, sent=pane.sent + 1, draft=draft
        )
        async for pane in self._answer(asked, str(model), sampling=sampling, key=key):
            yield pane

    async def regenerate(
        self, pane: Pane, *, model: str | None, sampling: Sampling, key: str
    ) -> AsyncIterator[Pane]:
        """Answers the last question again."""
        if not pane.messages:
            yield pane
            return
        if not model or key in self._answers:
            notice = self.notices.no_model if not model else self.notices.running
            yield replace(pane, notice=notice)
            return
        messages = pane.messages[:-1] if pane.messages[-1].role == "assistant" else pane.messages
        asked = Pane(messages=messages, running=True, sent=pane.sent)
        async for pane in self._answer(asked, model, sampling=sampling, key=key):
            yield pane

    def stop(self, key: str) -> None:
        """Stops the answer that is on its way in the pane `key`, if there is one."""
        if answer := self._answers.get(key):
            answer.stop()

    def _refusal(self, pane: Pane, model: str | None, key: str) -> str:
        """Why no question can be asked now; empty when one can."""
        if not model:
            return self.notices.no_model
        if key in self._answers:
            return self.notices.running
        if pane.turns >= TURN_LIMIT:
            return self.notices.full.format(limit=TURN_LIMIT)
        return ""

    async def _flags(self, pane: Pane, text: str, key: str) -> bool:
        """Whether `text` is kept from the models; nothing else is sent in the pane meanwhile."""
        if self.moderation is None:
            return False
        self._answers[key] = Answer()
        try:
            said = [message.text for message in pane.messages]
            return await self.moderation.flags(moderated_text([said], text))
        finally:
            self._answers.pop(key, None)

    async def _answer(
        self, pane: Pane, model: str, *, sampling: Sampling, key: str
    ) -> AsyncIterator[Pane]:
        """`pane` while the answer to its last question comes in, and once it is there."""
        answer = self._answers[key] = Answer()
        try:
            yield pane
            if not answer.stopped:
                answer.start(pieces_of(self.directory, pane.messages, model, sampling))
            async for text in answer.progress():
                yield _with_answer(pane, text)
        finally:
            self._answers.pop(key, None)
        done = replace(_with_answer(pane, answer.text), running=False)
        if notice := self._notice_at_end(answer, model, sampling):
            done = replace(done, notice=notice)
        yield done

    def _notice_at_end(self, answer: Answer, model: str, sampling: Sampling) -> str:
        """What there is to say about an answer that has ended; empty when all went well."""
        if answer.stopped:
            return self.notices.stopped
        if answer.error is not None:
            return notice_for(answer.error, model, self.notices)
        if answer.reason is None:
            return self.notices.cut_off
        if answer.reason == "length":
            return self.notices.length.format(limit=sampling.max_tokens)
        return "" if answer.text.strip() else self.notices.silent


def notice_for(error: BaseException, model: str, notices: NoticeTexts) -> str:
    """What the reader is told about `error`."""
    import httpx2
    import openai

    match error:
        case openai.APITimeoutError() | httpx2.TimeoutException():
            return notices.timeout
        case openai.APIConnectionError() | httpx2.HTTPError():
            return notices.unreachable
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return notices.refused
        case openai.RateLimitError():
            return notices.busy
        case openai.NotFoundError() | UnavailableError():
            return notices.gone.format(model=model)
        case openai.APIStatusError(status_code=503):
            return notices.gone.format(model=model)
        case openai.APIStatusError(status_code=504):
            return notices.timeout
        case openai.APIStatusError() if error.status_code < 500:
            return notices.rejected.format(reason=_sentence(error))
        case openai.APIError():
            return notices.failed.format(reason=_sentence(error))
        case FastChatError():
            return notices.failed.format(reason=error.message)
    log.error("answer failed model=%s", model, exc_info=error)
    return notices.unreachable


def _with_answer(pane: Pane, text: str) -> Pane:
    """`pane` with `text` as the answer to its last question."""
    if not text.strip():
        return pane
    return replace(pane, messages=(*pane.messages, Message(role="assistant", text=text)))


def _sentence(error: "APIError") -> str:
    """The server's own message, short, and ended by a full stop."""
    body = error.body if isinstance(error.body, dict) else {}
    text = " ".join(str(body.get("message") or error.message).split())[:300]
    return text if text.endswith((".", "!", "?")) else text + "."
