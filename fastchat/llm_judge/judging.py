"""A judging run: what is still to be judged, what it will cost, and the doing of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastchat.errors import DataError
from fastchat.llm_judge.account import estimated_tokens, price
from fastchat.llm_judge.folders import CORRECTED_ID, Bench, read_pairs, read_single
from fastchat.llm_judge.judge import Judge, is_of, key_of
from fastchat.llm_judge.lines import Appender, Rows, put_in_order
from fastchat.llm_judge.matches import Match, Mode, make_matches, missing, pairs_of
from fastchat.llm_judge.prompts import JudgePrompt
from fastchat.llm_judge.records import PairJudgment, Question, SingleJudgment
from fastchat.llm_judge.running import Outcome, run_all

EXPECTED_JUDGMENT_TOKENS = 250
"""For what a run will cost, before anything has been judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingPlan:
    """What one judge is to decide."""

    judge: str
    mode: Mode
    output: Path
    todo: tuple[Match, ...]
    n_matches: int
    """With those that are judged already."""
    notes: tuple[str, ...]
    """What was wrong with the files, and what is left out."""
    models: tuple[str, ...]
    prompts: dict[str, str]
    """Hashes of the prompts in use, by name."""

    @property
    def n_requests(self) -> int:
        return sum(len(match.games()) for match in self.todo)

    def expected(self, dollars: tuple[float | None, float | None]) -> dict[str, Any]:
        """Requests, tokens and dollars of what is to do, about."""
        prompt = sum(
            estimated_tokens(match.prompt.system_prompt + match.prompt.fill(shown))
            for match in self.todo
            for shown in match.games()
        )
        new = self.n_requests * EXPECTED_JUDGMENT_TOKENS
        return {
            "requests": self.n_requests,
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "cost_usd": price(prompt, new, dollars),
        }


def plan_judging(
    bench: Bench,
    questions: Sequence[Question],
    *,
    mode: Mode,
    models: Sequence[str],
    baseline: str,
    judge: str,
    prompts: dict[str, JudgePrompt],
    skip_missing: bool = False,
    retry_unparsed: bool = False,
    is_corrected: bool = True,
) -> JudgingPlan:
    """The matches of a mode, less those that have a judgment of the same answers and prompt.

    Raises:
        DataError: an answer or a reference is missing, unless that is to be skipped.
    """
    everyone = [*models, *([baseline] if mode == "pairwise-baseline" else [])]
    files = {model: bench.answers(model) for model in dict.fromkeys(everyone)}
    reference_rows = bench.references(judge, is_corrected=is_corrected)
    answers = {
        model: {a.question_id: a.model_copy(update={"model_id": model}) for a in held.rows}
        for model, held in files.items()
    }
    references = {row.question_id: row for row in reference_rows.rows}
    notes = [line for held in (*files.values(), reference_rows) for line in held.report()]
    asked = {question.question_id for question in questions}
    n_corrected = sum(
        row.answer_id.startswith(CORRECTED_ID) and row.question_id in asked
        for row in reference_rows.rows
    )
    if n_corrected:
        notes.append(
            f"{n_corrected} published reference answers that are known to be wrong are replaced by "
            "corrected ones; --published-references judges beside the published ones"
        )
    lacking = list(missing(questions, answers, references))
    if lacking and not skip_missing:
        hint = "or judge without it: --skip-missing."
        raise DataError("\n  ".join([*notes, *lacking, hint]))
    notes += [f"left out: {line}" for line in lacking]
    matches = make_matches(
        mode,
        questions,
        pairs_of(mode, models, baseline),
        answers=answers,
        references=references,
        prompts=prompts,
    )
    output = bench.judgment_file(judge, mode)
    known = _judgments(output, mode)
    notes += known.report()
    rows = {row.key: row for row in known.rows}
    todo = tuple(
        match
        for match in matches
        if not (row := rows.get(key_of(match, judge)))
        or not is_of(row, match)
        or (retry_unparsed and not row.is_parsed)
    )
    return JudgingPlan(
        judge=judge,
        mode=mode,
        output=output,
        todo=todo,
        n_matches=len(matches),
        notes=tuple(notes),
        models=tuple(models),
        prompts={match.prompt.name: match.prompt.hash for match in matches},
    )


async def judge_all(plan: JudgingPlan, judge: Judge, *, concurrency: int) -> Outcome:
    """Judges what the plan asks for; each row is in the file as soon as it is decided."""
    with Appender(plan.output) as file:

        async def work(match: Match) -> None:
            file.write(await judge.decide(match))

        return await run_all(
            plan.todo, work, name_of=lambda match: match.name, concurrency=concurrency
        )


def finish(plan: JudgingPlan) -> list[str]:
    """Puts the judgments in order; says what was not understood."""
    kind = SingleJudgment if plan.mode == "single" else PairJudgment
    put_in_order(plan.output, kind, lambda row: row.key, lambda row: tuple(map(str, row.key)))
    rows = _judgments(plan.output, plan.mode).rows
    unparsed = [row for row in rows if row.key[-3] == plan.judge and not row.is_parsed]
    if not unparsed:
        return []
    reasons = Counter(str((row.model_extra or {}).get("reason", "unknown")) for row in unparsed)
    told = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
    return [
        f"{plan.judge}: {len(unparsed)} of {len(rows)} judgments have no verdict and count "
        f"nowhere ({told}). --retry-unparsed asks for them again."
    ]


def _judgments(path: Path, mode: Mode) -> Rows[Any]:
    return read_single(path) if mode == "single" else read_pairs(path)
