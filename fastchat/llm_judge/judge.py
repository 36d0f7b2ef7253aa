"""One match to a judge -> one row of the published judgment files."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from fastchat.llm_judge.asking import Model, Reply, Request
from fastchat.llm_judge.matches import Match
from fastchat.llm_judge.records import Judgment, PairJudgment, SingleJudgment, Winner
from fastchat.llm_judge.verdicts import Verdict, as_text, better_of, parse_verdict, schema_of
from fastchat.message import Message

REMINDER = "Your verdict could not be read. Give it again, in exactly this form and nothing else: "
FORMS = {
    "[[rating]]": "Rating: [[5]], with your number from 1 to 10 in place of the 5",
    "[[A]]": "[[A]], [[B]] or [[C]]",
    "[[rating_a,rating_b]]": "[[7,5]], with your two numbers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One decision: what the judge was shown, said and meant."""

    prompt: str
    judgment: str
    verdict: Verdict
    n_tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model that judges, and how it is asked."""

    model: Model
    max_tokens: int = 2048
    output: Literal["auto", "patterns"] = "auto"
    """`auto`: verdicts by a JSON schema where the endpoint can."""
    is_fresh: bool = False

    async def decide(self, match: Match) -> Judgment:
        """The row of one match.

        Raises FastChatError when the judge cannot be asked. A reply that is not understood is
        asked for once more, then recorded without a verdict and with the reason.
        """
        games = [await self._ask(match, shown) for shown in match.games()]
        if not match.is_pair:
            return self._single(match, games[0])
        if match.prompt.type == "single":
            return self._pair_of_grades(match, games)
        return self._pair(match, games[0], games[1])

    async def _ask(self, match: Match, shown: Mapping[str, str]) -> Asked:
        """One game."""
        prompt = match.prompt
        asked = prompt.fill(shown)
        messages = prompt.messages(asked)
        reply = await self._reply(match, messages)
        verdict = parse_verdict(reply.text, prompt.output_format)
        n_tries = 1
        if verdict.reason:
            again = REMINDER + FORMS[prompt.output_format]
            said = (
                *messages,
                Message(role="assistant", text=reply.text),
                Message(role="user", text=again),
            )
            second = await self._reply(match, said if reply.text else messages, is_second=True)
            n_tries = 2
            found = parse_verdict(second.text, prompt.output_format)
            if not found.reason:
                verdict = found
            reply = second.model_copy(update={"text": _joined(reply.text, second.text)})
        return Asked(
            prompt=asked,
            judgment=as_text(reply.text, prompt.output_format),
            verdict=verdict,
            n_tries=n_tries,
        )

    async def _reply(
        self, match: Match, messages: tuple[Message, ...], *, is_second: bool = False
    ) -> Reply:
        # A second try of an empty reply is the same conversation: the seed keeps them apart.
        wants_schema = self.output == "auto" and not is_second
        return await self.model.ask(
            Request(
                messages=messages,
                temperature=0.0,
                max_tokens=self.max_tokens,
                seed=1 if is_second else None,
                schema=schema_of(match.prompt.output_format) if wants_schema else None,
                is_fresh=self.is_fresh,
            )
        )

    def _single(self, match: Match, asked: Asked) -> SingleJudgment:
        score = asked.verdict.score
        return SingleJudgment.model_validate(
            {
                "question_id": match.question.question_id,
                "model": match.answers[0].model_id,
                "judge": (self.model.name, match.prompt.name),
                "user_prompt": asked.prompt,
                "judgment": asked.judgment,
                "score": -1.0 if score is None else score,
                "turn": match.turn,
                "tstamp": time.time(),
                **_provenance(match, [asked]),
            }
        )

    def _pair(self, match: Match, first: Asked, second: Asked) -> PairJudgment:
        return PairJudgment.model_validate(
            {
                "question_id": match.question.question_id,
                "model_1": match.answers[0].model_id,
                "model_2": match.answers[1].model_id,
                "g1_winner": _winner(first.verdict, ("model_1", "model_2")),
                "g2_winner": _winner(second.verdict, ("model_2", "model_1")),
                "judge": (self.model.name, match.prompt.name),
                "g1_user_prompt": first.prompt,
                "g1_judgment": first.judgment,
                "g2_user_prompt": second.prompt,
                "g2_judgment": second.judgment,
                "turn": match.turn,
                "tstamp": time.time(),
                **_provenance(match, [first, second]),
            }
        )

    def _pair_of_grades(self, match: Match, grades: Sequence[Asked]) -> PairJudgment:
        """Published: a pair may be compared by the grades of its answers."""
        scores = [asked.verdict.score for asked in grades]
        if scores[0] is None or scores[1] is None:
            reason = grades[0].verdict.reason or grades[1].verdict.reason
            verdict = Verdict(reason=reason)
        else:
            verdict = Verdict(pair=better_of(scores[0], scores[1]))
        first, second = (
            Asked(prompt=a.prompt, judgment=a.judgment, verdict=verdict, n_tries=a.n_tries)
            for a in grades
        )
        row = self._pair(match, first, second)
        return row.model_copy(update={"g2_winner": row.g1_winner})


def identity(match: Match) -> dict[str, object]:
    """What a judgment is of: when it changes, the match is judged again."""
    made_of: dict[str, object] = {
        "prompt_hash": match.prompt.hash,
        "answer_ids": [answer.answer_id for answer in match.answers],
    }
    if match.reference:
        told = orjson.dumps(match.reference.choices[0].turns)
        made_of["reference_hash"] = hashlib.sha256(told).hexdigest()[:16]
    return made_of


def is_of(row: Judgment, match: Match) -> bool:
    """Whether a row of the same key was made of these answers, this prompt and this reference.

    Rows of other programs do not say, and count.
    """
    known = row.model_extra or {}
    return all(known.get(name, value) == value for name, value in identity(match).items())


def key_of(match: Match, judge: str) -> tuple[object, ...]:
    """The `key` of the row that the match becomes."""
    models = [answer.model_id for answer in match.answers]
    return (match.question.question_id, *models, judge, match.prompt.name, match.turn)


def _provenance(match: Match, games: Sequence[Asked]) -> dict[str, object]:
    """Fields beside the published ones."""
    reasons = [asked.verdict.reason for asked in games]
    extra: dict[str, object] = {**identity(match), "tries": sum(asked.n_tries for asked in games)}
    if any(reasons):
        extra["reason"] = "; ".join(reason for reason in reasons if reason)
    return extra


def _winner(verdict: Verdict, names: tuple[Winner, Winner]) -> Winner:
    match verdict.pair:
        case "A":
            return names[0]
        case "B":
            return names[1]
        case "tie":
            return "tie"
        case None:
            return "error"


def _joined(first: str, second: str) -> str:
    return f"{first}\n\n{second}" if first.strip() else second
