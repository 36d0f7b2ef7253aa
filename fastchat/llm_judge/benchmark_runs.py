"""A benchmark file -> answers, scores and judgments, in the published files."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastchat.errors import UsageError
from fastchat.llm_judge.account import Account
from fastchat.llm_judge.asking import ApiModel, Cache, EngineModel, Model, Reply, Request
from fastchat.llm_judge.benchmark_file import BenchmarkFile, ModelPart, QuestionPart
from fastchat.llm_judge.endpoints import EndpointSettings, endpoint_of
from fastchat.llm_judge.folders import PACKAGED, Bench, read_single
from fastchat.llm_judge.judge import Judge, is_of, key_of
from fastchat.llm_judge.lines import Appender, encode, put_in_order, read_rows, replace_file
from fastchat.llm_judge.matches import Match
from fastchat.llm_judge.prompts import JudgePrompt
from fastchat.llm_judge.records import Answer, Question, SingleJudgment
from fastchat.llm_judge.running import Outcome, run_all
from fastchat.llm_judge.scoring import Judged, RuleScoring, without_reasoning
from fastchat.message import Message

RULES = "rules"
"""The judge's name of scores by rule: `--judge-model rules` shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One turn of a question as a model answered it."""

    question: Question
    part: QuestionPart
    turn: int
    """From 1."""
    answer: Answer

    @property
    def text(self) -> str:
        return self.answer.choices[0].turns[self.turn - 1]

    @property
    def reference(self) -> str:
        given = self.part.reference or ()
        return given[self.turn - 1] if given else ""

    @property
    def name(self) -> str:
        return f"question {self.question.question_id} turn {self.turn}: {self.answer.model_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnMatch(Match):
    """Any turn of a conversation to be graded; its gaps are those of a benchmark's prompts."""

    item: Item

    def games(self) -> list[dict[str, str]]:
        asked, answered = self.item.question.turns, self.item.answer.choices[0].turns
        said = [f"User: {asked[0]}"]
        for i in range(1, self.turn):
            said += [f"Assistant: {answered[i - 1]}", f"User: {asked[i]}"]
        return [
            {
                "conversation": "\n\n".join(said),
                "question": asked[self.turn - 1],
                "answer": without_reasoning(self.item.text),
                "reference": self.item.reference,
            }
        ]


class ToldModel:
    """A model that is told a system message before whatever it is asked."""

    def __init__(self, model: Model, message: str) -> None:
        self.name = model.name
        self.account = model.account
        self._model = model
        self._message = Message(role="system", text=message)

    async def ask(self, request: Request) -> Reply:
        messages = (self._message, *request.messages)
        return await self._model.ask(replace(request, messages=messages))

    async def close(self) -> None:
        await self._model.close()


def server_key(part: ModelPart) -> str:
    """The key of a model's server, empty where none is named.

    Raises:
        UsageError: the environment lacks the one that is named.
    """
    if not part.api_key_env:
        return ""
    key = os.environ.get(part.api_key_env)
    if not key:
        raise UsageError(f"{part.name}: set {part.api_key_env}, which holds the server's key.")
    return key


async def open_model(
    part: ModelPart, bench: Bench, settings: EndpointSettings, *, force: bool = False
) -> Model:
    """A model of the file, in this process or behind a server.

    Raises:
        UsageError: the variable with its key is not set, or its address is none.
        ModelError: it cannot be loaded.
    """
    account = Account(max_cost=settings.max_cost)
    if part.model_path:
        from fastchat.llm_judge.in_process import open_answering
        from fastchat.model.load import ModelSettings

        model = ModelSettings(model_path=part.model_path, device=part.device)  # type: ignore[arg-type]
        return EngineModel(part.name, await open_answering(model), account=account)
    flags = {name: value for name in ("api_base",) if (value := getattr(part, name))}
    if part.api_key_env:
        flags["api_key"] = server_key(part)
    endpoint = endpoint_of(part.name, replace(settings, **flags))
    prices = {
        name: value
        for name in ("model_name", "price_input", "price_output")
        if (value := getattr(part, name)) is not None
    }
    cache = Cache(bench.cache_file(part.name), is_read=settings.cache and not force)
    endpoint = endpoint.model_copy(update=prices)
    return ApiModel(part.name, endpoint, settings, account=account, cache=cache)


def write_questions(bench: Bench, rows: Sequence[Question]) -> None:
    """Puts the questions where every other command looks for them."""
    replace_file(bench.folder / "question.jsonl", map(encode, rows))


def items_of(
    made: BenchmarkFile, questions: Sequence[Question], answers: Sequence[Answer]
) -> list[Item]:
    """Every answered turn."""
    parts = dict(made.numbered())
    known = {answer.question_id: answer for answer in answers}
    return [
        Item(question=question, part=parts[question.question_id], turn=turn, answer=answer)
        for question in questions
        if (answer := known.get(question.question_id)) and answer.is_complete(question)
        for turn in range(1, len(question.turns) + 1)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScore:
    """A turn with the rule that scores it."""

    item: Item
    rule: RuleScoring

    @property
    def identity(self) -> dict[str, object]:
        """What the score is of: when it changes, the turn is scored again."""
        hashed = self.rule.hash(self.item.reference)
        return {"prompt_hash": hashed, "answer_ids": [self.item.answer.answer_id]}

    @property
    def key(self) -> tuple[object, ...]:
        item = self.item
        kind = self.rule.kind
        return (item.question.question_id, item.answer.model_id, RULES, kind, item.turn)


async def score_by_rules(
    made: BenchmarkFile, bench: Bench, items: Sequence[Item], *, force: bool = False
) -> tuple[Outcome, set[str]]:
    """Scores what a rule scores into `rules_single.jsonl`; how that went, and what to know."""
    path = bench.judgment_file(RULES, "single")
    known = {} if force else {row.key: row for row in read_single(path).rows}
    scored = [
        RuleScore(item=item, rule=rule)
        for item in items
        if (rule := made.rule(item.part, item.turn - 1)) and not isinstance(rule, Judged)
    ]
    todo = [
        s
        for s in scored
        if not (row := known.get(s.key)) or (row.model_extra or {}) | s.identity != row.model_extra
    ]
    notes: set[str] = set()
    if not todo:
        return Outcome(), notes
    with Appender(path) as file:

        async def work(one: RuleScore) -> None:
            answer = without_reasoning(one.item.text)
            found = await one.rule.score(answer, one.item.reference)
            notes.update([found.note] if found.note else [])
            file.write(_row(one, found.score, found.reason))

        outcome = await run_all(
            todo,
            work,
            name_of=lambda one: one.item.name,
            concurrency=os.cpu_count() or 1,
        )
    put_in_order(path, SingleJudgment, lambda row: row.key, lambda row: tuple(map(str, row.key)))
    return outcome, notes


def _row(one: RuleScore, score: float, reason: str) -> Mapping[str, object]:
    return {
        "question_id": one.item.question.question_id,
        "model": one.item.answer.model_id,
        "judge": (RULES, one.rule.kind),
        "user_prompt": one.rule.model_dump_json(by_alias=True, exclude_unset=True),
        "judgment": reason,
        "score": score,
        "turn": one.item.turn,
        "tstamp": time.time(),
        **one.identity,
    }


def matches_of(made: BenchmarkFile, items: Sequence[Item]) -> list[TurnMatch]:
    """What a judge is to grade."""
    shipped = read_rows(PACKAGED / "benchmark_prompts.jsonl", JudgePrompt, lambda p: p.name).rows
    prompts = {prompt.name: prompt for prompt in shipped} | {
        name: JudgePrompt(
            name=name,
            type="single",
            system_prompt=part.system,
            prompt_template=part.template,
            output_format="[[rating]]",
        )
        for name, part in made.prompts.items()
    }
    found: list[TurnMatch] = []
    for item in items:
        rule = made.rule(item.part, item.turn - 1)
        if not isinstance(rule, Judged):
            continue
        name = rule.prompt or ("turn-reference-v1" if item.reference.strip() else "turn-v1")
        found.append(
            TurnMatch(
                question=item.question,
                turn=item.turn,
                answers=(item.answer,),
                prompt=prompts[name],
                item=item,
            )
        )
    return found


def not_judged(
    path: Path, matches: Sequence[TurnMatch], judge: str, *, retry_unparsed: bool
) -> list[TurnMatch]:
    """The matches without a grade of the same answer, prompt and reference."""
    known = {row.key: row for row in read_single(path).rows}
    return [
        match
        for match in matches
        if not (row := known.get(key_of(match, judge)))
        or not is_of(row, match)
        or (retry_unparsed and not row.is_parsed)
    ]


async def judge_turns(
    path: Path, matches: Sequence[TurnMatch], judge: Judge, *, concurrency: int
) -> Outcome:
    """Lets the judge grade; each row is in the file as soon as it is decided."""
    with Appender(path) as file:

        async def work(match: TurnMatch) -> None:
            file.write(await judge.decide(match))

        outcome = await run_all(
            matches, work, name_of=lambda match: match.name, concurrency=concurrency
        )
    await asyncio.to_thread(
        put_in_order,
        path,
        SingleJudgment,
        lambda row: row.key,
        lambda row: tuple(map(str, row.key)),
    )
    return outcome
