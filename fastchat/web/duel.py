"""A duel: the same questions to two models, or to one, and what may be done to it.

Nothing here knows how a duel is drawn. A handler takes the duel as it is and gives it as it
becomes; `battle.py` turns each into what the browser shows. The duel itself never leaves the
server, so in an anonymous battle the names are safe in it until `shown_name` tells them.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fastchat.arena.pairing import Outages, PairingFile
from fastchat.errors import StoreError, UnavailableError
from fastchat.message import Message
from fastchat.store.arena_records import FlagKind, Kind
from fastchat.web.duel_records import (
    OUTCOMES,
    THUMBS,
    Duel,
    Side,
    page_of,
    stored_battle,
    stored_flag,
    stored_share,
    stored_vote,
    turn_lines,
    vote_line,
)
from fastchat.web.guard import CallMonitor, Moderation, VoteLimit, moderated_text
from fastchat.web.images import Picture, PictureFolder
from fastchat.web.ledger import Ledger, utc_now
from fastchat.web.models import ModelDirectory
from fastchat.web.pane import (
    LOOK_UP_S,
    NO_DRAFT,
    TURN_LIMIT,
    UPDATE_S,
    Answer,
    Draft,
    notice_for,
)
from fastchat.web.pieces import Sampling, pieces_of
from fastchat.web.texts import Texts
from fastchat.web.visitors import Visitor

REDRAWS_PER_S = 80
"""Of growing answers, over all readers: the more there are, the calmer each page, so that votes
and other readers' first words are not kept waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a message may be."""

    message: int = 12_000
    anonymous: int = 30_000

    def of(self, kind: Kind) -> int:
        """Characters of one message."""
        return self.anonymous if kind == "anonymous" else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a reader sends, and to whom."""

    text: str
    models: tuple[str | None, ...] = ()
    """The chosen models, where they are chosen."""
    sampling: Sampling
    pictures: tuple[Picture, ...] = ()
    draft: Draft = NO_DRAFT
    """What stands in the message box; emptied once the question is taken."""


class Duels:
    """The handlers of every open duel; holds no more than the answers on their way."""

    def __init__(
        self,
        directory: ModelDirectory,
        texts: Texts,
        ledger: Ledger,
        *,
        pairing: PairingFile,
        limits: Limits,
        vote_limit: VoteLimit,
        now: Callable[[], float],
        rng: random.Random,
        moderation: Moderation | None = None,
        monitor: CallMonitor | None = None,
        pictures: PictureFolder | None = None,
    ) -> None:
        self.directory = directory
        self.words = texts.arena
        self.notices = texts.notice
        self.ledger = ledger
        self.pairing = pairing
        self.limits = limits
        self.vote_limit = vote_limit
        self.moderation = moderation
        self.monitor = monitor
        self.pictures = pictures
        self.outages = Outages()
        self._now = now
        self._rng = rng
        self._answers: dict[str, list[Answer]] = {}
        """The answers on their way by open page; empty lists while something else is."""

    async def send(
        self, duel: Duel, question: Question, *, visitor: Visitor, key: str
    ) -> AsyncIterator[Duel]:
        """Adds the question and lets the models answer it.

        Args:
            key: names the duel among all that are open; one thing at a time happens in each.
        """
        text = question.text.strip()
        if not text and not question.pictures:
            yield duel  # a handler that yields nothing empties what it draws
            return
        if refusal := self._refusal(duel, key):
            yield replace(duel, notice=refusal)
            return
        self._answers[key] = []
        try:
            notices: list[str] = []
            limit = self.limits.of(duel.kind)
            if len(text) > limit:
                text = text[:limit]
                notices.append(self.notices.cut.format(limit=limit))
            asked = await self._with_sides(duel, question)
            if isinstance(asked, str):
                yield replace(duel, notice=asked)
                return
            if refusal := await self._forbidden(asked, text, visitor):
                yield replace(duel, notice=refusal)
                return
            pictures, notice = await self._usable(asked, question.pictures)
            notices += [notice] if notice else []
            said = Message(role="user", text=text, images=tuple(p.data_url for p in pictures))
            asked = replace(
                asked.asked(said, tuple(p.hash for p in pictures)),
                notice=" ".join(notices),
                sent=duel.sent + 1,
                draft=question.draft,
                cookie=asked.cookie or visitor.cookie,
            )
            async for step in self._answer(asked, question.sampling, visitor=visitor, key=key):
                yield step
        finally:
            self._answers.pop(key, None)

    async def regenerate(
        self, duel: Duel, sampling: Sampling, *, visitor: Visitor, key: str
    ) -> AsyncIterator[Duel]:
        """Has the last question answered again, by the same models."""
        if not duel.sides or not duel.sides[0].messages:
            yield duel
            return
        if duel.kind == "anonymous" and duel.vote:
            yield replace(duel, notice=self.words.begin_new_round)
            return
        if key in self._answers:
            yield replace(duel, notice=self.notices.running)
            return
        self._answers[key] = []
        try:
            asked = replace(duel.asked_again(), notice="")
            async for step in self._answer(asked, sampling, visitor=visitor, key=key):
                yield step
        finally:
            self._answers.pop(key, None)

    def stop(self, key: str) -> None:
        """Stops the answers that are on their way in the duel `key`."""
        for answer in self._answers.get(key, ()):
            answer.stop()

    async def vote(self, duel: Duel, choice: str, *, visitor: Visitor, key: str) -> Duel:
        """The duel with the vote, which is on the disk; or with the reason why it is not."""
        if reason := self._vote_refusal(duel, choice, visitor, key):
            self.ledger.refuse(reason)
            return replace(duel, notice=self.words.refused_votes[reason])
        outcome = OUTCOMES[choice]
        self._answers[key] = []  # nothing else happens in this duel meanwhile
        try:
            vote = stored_vote(duel, outcome, voter=visitor.voter, at=utc_now())
            line = vote_line(duel, outcome, ip=visitor.voter, at=vote.voted_at)
            [new] = await self.ledger.write([vote], [line])
        except StoreError:
            return replace(duel, notice=self.words.vote_not_saved)
        finally:
            self._answers.pop(key, None)
        if not new:
            self.ledger.refuse("duplicate")
            return replace(duel, notice=self.words.refused_votes["duplicate"])
        return replace(duel, vote=choice, notice=self.words.thanks)

    async def flag(self, duel: Duel, kind: FlagKind, *, visitor: Visitor, key: str) -> Duel:
        """The duel with a thumb or a flag on its last answer."""
        if kind not in THUMBS or duel.flagged or not duel.can_flag or key in self._answers:
            return duel
        record, line = stored_flag(duel, kind, voter=visitor.voter, at=utc_now())
        try:
            await self.ledger.write([record], [line])
        except StoreError:
            return replace(duel, notice=self.words.vote_not_saved)
        return replace(duel, flagged=kind, notice=self.words.thanks)

    async def share(self, duel: Duel, *, visitor: Visitor) -> tuple[str, str]:
        """The token under which the duel as it is now can be seen, and a notice.

        One of the two is empty.
        """
        if not duel.has_answers:
            return "", self.words.nothing_to_share
        at = utc_now()
        names = [self.shown_name(duel, i) for i in range(len(duel.sides))]
        share = stored_share(secrets.token_urlsafe(24), page_of(duel, names), at=at)
        lines = [vote_line(duel, "share", ip=visitor.voter, at=at)] if len(duel.sides) > 1 else []
        try:
            await self.ledger.write([share], lines)
        except StoreError:
            return "", self.words.share_not_saved
        return share.token, ""

    def shown_name(self, duel: Duel, i: int) -> str:
        """How side `i` is called now: in an anonymous battle without its name until the vote."""
        if duel.kind == "direct":
            return duel.sides[i].model
        label = (self.words.side_a, self.words.side_b)[i]
        if duel.kind == "anonymous" and not duel.vote:
            return label
        return f"{label}: {duel.sides[i].model}"

    def _refusal(self, duel: Duel, key: str) -> str:
        """Why no question can be asked now; empty when one can."""
        if key in self._answers:
            return self.notices.running
        if duel.kind == "anonymous" and duel.vote:
            return self.words.begin_new_round
        if duel.turns >= TURN_LIMIT:
            return self.notices.full.format(limit=TURN_LIMIT)
        return ""

    def _vote_refusal(self, duel: Duel, choice: str, visitor: Visitor, key: str) -> str:
        """Why a vote is not taken: a name of `refused_votes`; empty when it is."""
        if choice not in OUTCOMES:
            return "unknown"
        if not duel.battle or len(duel.sides) != 2:
            return "no_battle"
        if duel.cookie != visitor.cookie:
            return "forged"
        if duel.vote:
            return "voted"
        if duel.running or key in self._answers:
            return "unfinished"
        if not duel.can_vote:
            return "failed"
        return "" if self.vote_limit.takes(visitor.address) else "rate"

    async def _with_sides(self, duel: Duel, question: Question) -> Duel | str:
        """The duel with its models; or why it has none."""
        if duel.kind == "anonymous":
            return duel if duel.sides else await self._drawn(duel, vision=bool(question.pictures))
        vision = self.pictures is not None
        listing = (await self.directory.listing()).visible(vision=vision)
        n = 1 if duel.kind == "direct" else 2
        first = [model.name for model in listing.models[:n]]
        chosen = [model or "" for model in question.models] if any(question.models) else first * n
        if not first:
            return self.notices.no_model
        if len(chosen[:n]) < n or not all(chosen[:n]):
            return self.words.choose_models
        if wrong := [name for name in chosen[:n] if not listing.find(name)]:
            return self.notices.gone.format(model=wrong[0])
        if tuple(side.model for side in duel.sides) == tuple(chosen[:n]):
            return duel
        return _begun(duel, chosen[:n], vision=False)

    async def _drawn(self, duel: Duel, *, vision: bool) -> Duel | str:
        listing = await self.directory.listing()
        names = [m.name for m in listing.models if (m.sees_images if vision else m.answers_text)]
        if not names:
            return self.words.no_vision_model if vision else self.notices.no_model
        resting = self.outages.resting(now=self._now())
        pair = self.pairing.draw(names, rng=self._rng, resting=resting, vision=vision)
        return self.words.no_pair if pair is None else _begun(duel, pair, vision=vision)

    async def _forbidden(self, duel: Duel, text: str, visitor: Visitor) -> str:
        """Why this may not be asked: a limit, or what it says; empty when it may."""
        if self.monitor is not None and duel.kind != "anonymous":
            for side in duel.sides:
                if reason := await self.monitor.reason(side.model, visitor.address):
                    return self.words.limit_reached.format(reason=reason)
        if self.moderation is None:
            return ""
        conversations = [[m.text for m in side.messages] for side in duel.sides]
        if not await self.moderation.flags(moderated_text(conversations, text)):
            return ""
        flagged = duel.asked(Message(role="user", text=text), ())
        lines = turn_lines(flagged, Sampling(), ip=visitor.voter, extra={"flagged": True})
        self.ledger.write_later([], lines)
        return self.notices.flagged

    async def _usable(
        self, duel: Duel, pictures: Sequence[Picture]
    ) -> tuple[tuple[Picture, ...], str]:
        """The pictures that every side sees, kept before they are sent; and a notice."""
        if not pictures:
            return (), ""
        listing = await self.directory.listing()
        found = [listing.find(side.model) for side in duel.sides]
        if self.pictures is None or not all(m and m.sees_images for m in found):
            return (), self.words.pictures_ignored
        used = tuple(pictures[:1])
        try:
            records = [await self.pictures.keep(picture, at=utc_now()) for picture in used]
        except UnavailableError as error:
            return (), error.message
        self.ledger.write_later(records)
        return used, self.words.one_picture if len(pictures) > 1 else ""

    async def _answer(
        self, duel: Duel, sampling: Sampling, *, visitor: Visitor, key: str
    ) -> AsyncIterator[Duel]:
        """`duel` while the answers to its last question come in, and once they are there."""
        duel = replace(duel, running=True, vote="", flagged="")
        news = asyncio.Event()
        answers = self._answers[key] = [Answer(news) for _ in duel.sides]
        started_at = utc_now()
        ended_at = [started_at] * len(answers)
        yield duel
        try:
            for side, answer in zip(duel.sides, answers, strict=True):
                if not answer.stopped:
                    settings = self._sampling_for(duel, side, sampling)
                    answer.start(pieces_of(self.directory, side.messages, side.model, settings))
            running = [True] * len(answers)
            while any(running):
                running = [answer.running for answer in answers]
                ended_at = [utc_now() if r else at for r, at in zip(running, ended_at, strict=True)]
                if not any(running):
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), LOOK_UP_S)
                news.clear()
                yield duel.with_answers([answer.text for answer in answers])
                if not any(answer.stopped for answer in answers):
                    await asyncio.sleep(max(UPDATE_S, len(self._answers) / REDRAWS_PER_S))
        finally:
            await asyncio.gather(*(answer.end() for answer in answers))
        sides = [
            self._ended(duel, i, answer, sampling, times=(started_at, ended_at[i]))
            for i, answer in enumerate(answers)
        ]
        problems = [side.problem for side in sides if side.problem]
        unique = list(dict.fromkeys([duel.notice, *problems] if duel.notice else problems))
        done = replace(duel, sides=tuple(sides), running=False, notice=" ".join(unique))
        self._remember(done, sampling, visitor)
        yield done

    def _sampling_for(self, duel: Duel, side: Side, sampling: Sampling) -> Sampling:
        """How a side answers: in battles as its makers advise, where the operator says so."""
        advice = self.directory.advice(side.model) if duel.kind == "anonymous" else None
        if advice is None:
            return sampling
        given = {
            name: value
            for name in ("temperature", "top_p", "max_tokens")
            if (value := getattr(advice, name)) is not None
        }
        return replace(sampling, **given)

    def _ended(
        self, duel: Duel, i: int, answer: Answer, sampling: Sampling, *, times: tuple[float, float]
    ) -> Side:
        """Side `i` with its answer, and what there is to say about how that ended."""
        side = duel.sides[i].with_answer(answer.text)
        reason, problem = self._end(duel, i, answer, sampling)
        if answer.error is not None:
            self.outages.failed(side.model, now=self._now())
        elif reason in ("stop", "length"):
            self.outages.answered(side.model)
        return replace(side, reason=reason, problem=problem, started_at=times[0], ended_at=times[1])

    def _end(self, duel: Duel, i: int, answer: Answer, sampling: Sampling) -> tuple[str, str]:
        """How an answer ended, and what the reader is told about it."""
        name = self.shown_name(duel, i)
        if answer.stopped:
            return "stopped", self.words.stopped if len(duel.sides) > 1 else self.notices.stopped
        if answer.error is not None:
            if duel.kind == "anonymous":  # a server's own words may name the model
                return "error", self.words.side_failed.format(side=name)
            told = notice_for(answer.error, duel.sides[i].model, self.notices)
            return "error", f"{name}: {told}" if len(duel.sides) > 1 else told
        if answer.reason is None:
            return "cut_off", self.words.side_failed.format(side=name)
        if not answer.text.strip():
            return "silent", self.words.side_silent.format(side=name)
        if answer.reason == "length" and duel.kind != "anonymous":
            return "length", self.notices.length.format(limit=sampling.max_tokens)
        return ("length" if answer.reason == "length" else "stop"), ""

    def _remember(self, duel: Duel, sampling: Sampling, visitor: Visitor) -> None:
        """Writes the turn behind the reader's back."""
        record = stored_battle(duel) if duel.kind != "direct" else duel.sides[0].stored()
        self.ledger.write_later([record], turn_lines(duel, sampling, ip=visitor.voter))


def _begun(duel: Duel, models: Sequence[str], *, vision: bool) -> Duel:
    """A new duel of `models`, of the kind of `duel`."""
    sides = tuple(Side(model=model, conversation=secrets.token_hex(16)) for model in models)
    return Duel(
        kind=duel.kind,
        battle=secrets.token_hex(16),
        sides=sides,
        sent=duel.sent,
        vision=vision,
        begun_at=utc_now(),
    )
