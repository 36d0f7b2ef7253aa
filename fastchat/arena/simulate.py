"""Gives a new model a first position: a judge, or a rule, votes on battles of a question file.

    python3 -m fastchat.arena.simulate --question-file Q.jsonl --models a,b,c --new-models c \\
        --judge-model gpt-4 --api-base http://localhost:8000/v1

The votes are marked as a judge's and never count on people's boards.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from fastchat.errors import DataError, UsageError
from fastchat.llm_judge.endpoints import EndpointSettings
from fastchat.settings import CommaList, Group, run_command

if TYPE_CHECKING:
    from fastchat.arena.events import Event
    from fastchat.arena.judge_bench import JudgeBench
    from fastchat.arena.simulation import Simulated, Tally
    from fastchat.llm_judge.asking import Model
    from fastchat.llm_judge.folders import Bench
    from fastchat.llm_judge.records import Answer, Question
    from fastchat.store.arena_records import StoredVote


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSettings:
    """Lets a judge vote on battles, the pairs chosen so that intervals shrink fastest."""

    models: CommaList = ()
    """Models that meet, by the names that the endpoint knows."""
    new_models: CommaList = ()
    """Of these models one is in every battle; without it all are alike."""
    question_file: Path | None = None
    """JSON Lines of questions (`turns`, or `prompt`); without it those of --bench-name."""
    bench_name: str = "fastchat_bench"
    """Benchmark whose questions, and answers that are there already, are used."""
    data_dir: Path = Path("data")
    """Folder of benchmarks; replies are kept there, so that none is paid twice."""
    judge_model: str | None = None
    """Model that judges, each pair in both orders."""
    judge_file: Path | None = None
    """Judge prompts instead of those that ship."""
    rule: Literal["longer", "shorter", "reference"] | None = None
    """Judge by a rule: the longer or the shorter answer, or the one with more of the reference."""
    num_battles: int = 100
    """Battles at most in this run."""
    target_width: float | None = None
    """End when the 95 % intervals of --new-models, or of all, are this many points wide."""
    max_tokens: int = 1024
    """Longest answer."""
    judge_max_tokens: int = 2048
    """Longest verdict."""
    seed: int = 42
    """Of the questions' order and of the sides."""
    database_url: str | None = None
    """Keep votes in this store: a SQLite file or a URL. Without it they go to --log-root."""
    log_root: Path = Path("simulated_battles")
    """Folder of the log to which votes are written."""
    output_dir: Path | None = None
    """Write ratings.csv and ratings.json of the judge's votes here."""
    endpoint: Group[EndpointSettings] = EndpointSettings()  # noqa: RUF009 - frozen
    debug: bool = False
    """Show tracebacks."""

    @property
    def judge(self) -> str:
        """What the votes are signed with."""
        return self.judge_model or f"rule-{self.rule}"


class VoteKeeper(Protocol):
    """Where this judge's votes are, and come."""

    def keep(self, vote: "StoredVote") -> None: ...

    def events(self) -> "Iterator[Event]": ...

    def close(self) -> None: ...


def simulate_command(settings: SimulateSettings) -> int:
    """Fights the battles, and prints and writes the positions."""
    from fastchat.arena.simulation import Tally, table_lines
    from fastchat.llm_judge.folders import Bench

    _check(settings)
    bench = Bench(data_dir=settings.data_dir, name=settings.bench_name)
    questions = _questions(settings, bench)
    tally = Tally.of(settings.models)
    keeper = _keeper(settings)
    try:
        n_before = _taken_up(settings, keeper, tally, questions)
        done = asyncio.run(_run(settings, bench, questions, tally, keeper))
    finally:
        keeper.close()
    ratings = tally.ratings()
    print("\n".join(table_lines(ratings)))
    print(f"\nvotes of {settings.judge}: {done.n_votes} now, {n_before} before; {done.ended}")
    for message in dict.fromkeys(done.failures):
        print(f"failed: {done.failures.count(message)} battles: {message}", file=sys.stderr)
    if settings.output_dir is not None:
        _write(settings.output_dir, tally)
    return 1 if done.failures and not done.n_votes else 0


def _check(settings: SimulateSettings) -> None:
    """Raises UsageError for flags that do not fit together."""
    if len(set(settings.models)) < 2 or len(set(settings.models)) < len(settings.models):
        raise UsageError("--models needs two or more different names: --models a,b,c.")
    if unknown := [m for m in settings.new_models if m not in settings.models]:
        raise UsageError(f"--new-models {unknown[0]!r} is not among --models.")
    if (settings.judge_model is None) == (settings.rule is None):
        raise UsageError("give --judge-model NAME, or --rule longer, shorter or reference.")
    for name in ("num_battles", "max_tokens", "judge_max_tokens"):
        if getattr(settings, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(settings, name)} is below 1.")
    if settings.target_width is not None and settings.target_width <= 0:
        raise UsageError(f"--target-width {settings.target_width:g} is no width; give points.")
    settings.endpoint.check()


def _questions(settings: SimulateSettings, bench: "Bench") -> "tuple[Question, ...]":
    from fastchat.arena.judge_bench import first_turn, read_questions

    if settings.question_file is not None:
        questions = read_questions(settings.question_file)
    else:
        questions = tuple(map(first_turn, bench.questions()))
    if settings.rule == "reference":
        questions = tuple(q for q in questions if q.reference and q.reference[0])
        if not questions:
            raise DataError("--rule reference: no question has a reference.")
    return questions


class _LogKeeper:
    """Votes as lines of a published log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, vote: "StoredVote") -> None:
        from fastchat.arena.events import Event, LoggedState, append

        sides = (vote.battle.a, vote.battle.b)
        states = tuple(
            LoggedState(conv_id=c.id, model_name=c.model, messages=c.messages) for c in sides
        )
        extra = {"origin": "judge", "battle_id": vote.battle.id}
        event = Event(
            type=vote.outcome,
            tstamp=vote.voted_at,
            models=("", ""),
            states=states,
            ip=vote.voter,
            extra=extra,
        )
        try:
            append(self._folder, event)
        except OSError as error:
            raise DataError(f"{self._folder}: a vote cannot be written: {error}.") from None

    def events(self) -> "Iterator[Event]":
        from fastchat.arena.events import Event, log_files, read_events

        if self._folder.is_dir() and any(self._folder.glob("*-conv.json")):
            found = read_events(log_files(self._folder))
            yield from (event for event in found if isinstance(event, Event))

    def close(self) -> None:
        pass


class _StoreKeeper:
    """Votes in the arena's store."""

    def __init__(self, url: str) -> None:
        from fastchat.store.arena import ArenaStore
        from fastchat.store.database import Database

        self._database = Database(url)
        self._store = ArenaStore(self._database)

    def keep(self, vote: "StoredVote") -> None:
        self._store.record([vote])

    def events(self) -> "Iterator[Event]":
        from fastchat.arena.store_battles import stored_votes

        return stored_votes(self._database)

    def close(self) -> None:
        self._database.close()


def _keeper(settings: SimulateSettings) -> VoteKeeper:
    if settings.database_url is not None:
        return _StoreKeeper(settings.database_url)
    return _LogKeeper(settings.log_root.expanduser())


def _taken_up(
    settings: SimulateSettings,
    keeper: VoteKeeper,
    tally: "Tally",
    questions: "Sequence[Question]",
) -> int:
    """Counts this judge's earlier votes into `tally`; how many there are."""
    from fastchat.arena.events import VOTES

    places = {question.turns[0]: i for i, question in enumerate(questions)}
    n = 0
    for event in keeper.events():
        is_own = event.type in VOTES and event.ip == f"judge:{settings.judge}"
        if not is_own or event.extra.get("origin") != "judge":
            continue
        first, second = (state.model_name or "" for state in event.states)
        said = event.states[0].messages
        place = places.get(said[0][1]) if said and isinstance(said[0][1], str) else None
        if place is not None:
            tally.fought.add((frozenset((first, second)), place))
        n += first in tally.models and second in tally.models
        tally.add(first, second, event.type)  # type: ignore[arg-type]
    return n


async def _run(
    settings: SimulateSettings,
    bench: "Bench",
    questions: "tuple[Question, ...]",
    tally: "Tally",
    keeper: VoteKeeper,
) -> "Simulated":
    from fastchat.arena.simulation import Planner, simulate

    opened: dict[str, Model] = {}
    try:
        arena = _arena(settings, bench, questions, opened)
        newcomers = settings.new_models
        planner = Planner(tally, len(questions), newcomers=newcomers, seed=settings.seed)
        return await simulate(
            planner,
            arena,
            keeper,
            tally,
            judge=settings.judge,
            most=settings.num_battles,
            width=settings.target_width,
            watched=newcomers,
            parallel=settings.endpoint.parallel,
        )
    finally:
        for model in opened.values():
            await model.close()


def _arena(
    settings: SimulateSettings,
    bench: "Bench",
    questions: "tuple[Question, ...]",
    opened: "dict[str, Model]",
) -> "JudgeBench":
    """Whom to ask, as the flags say; what it opens stands in `opened`."""
    from fastchat.arena.judge_bench import JudgeBench, ModelJudge, rule_of
    from fastchat.llm_judge.account import Account
    from fastchat.llm_judge.asking import ApiModel, Cache
    from fastchat.llm_judge.endpoints import endpoint_of
    from fastchat.llm_judge.judge import Judge
    from fastchat.llm_judge.prompts import load_prompts

    account = Account(max_cost=settings.endpoint.max_cost)
    for name in dict.fromkeys([*settings.models, *filter(None, [settings.judge_model])]):
        opened[name] = ApiModel(
            name,
            endpoint_of(name, settings.endpoint),
            settings.endpoint,
            account=account,
            cache=Cache(bench.cache_file(name), is_read=settings.endpoint.cache),
        )
    if settings.rule is not None:
        decide = rule_of(settings.rule)
    else:
        judge = Judge(model=opened[settings.judge], max_tokens=settings.judge_max_tokens)
        decide = ModelJudge(judge, load_prompts(settings.judge_file, settings.data_dir))
    return JudgeBench(
        questions,
        {name: opened[name] for name in settings.models},
        decide,
        max_tokens=settings.max_tokens,
        known=_known(settings, bench, questions),
    )


def _known(
    settings: SimulateSettings, bench: "Bench", questions: "Sequence[Question]"
) -> "dict[str, dict[int, Answer]]":
    """Answers of the benchmark that are there already; of a file of one's own there are none."""
    if settings.question_file is not None:
        return {}
    by_id = {question.question_id: question for question in questions}
    known: dict[str, dict[int, Answer]] = {}
    for name in settings.models:
        known[name] = {
            a.question_id: a
            for a in bench.answers(name).rows
            if a.question_id in by_id and a.choices[0].turns and a.choices[0].turns[0]
        }
    return known


def _write(folder: Path, tally: "Tally") -> None:
    from fastchat.arena.export import csv_of, json_of
    from fastchat.arena.leaderboard import Leaderboard, board_of
    from fastchat.arena.row_files import written_at_once

    board = board_of(tally.ratings(), tally.counts, key="judge", title="By the judge's votes")
    files = {"ratings.csv": csv_of(board).encode()}
    files["ratings.json"] = json_of(Leaderboard(boards={"judge": board}))
    for name, data in files.items():
        with written_at_once(folder / name) as part:
            part.write_bytes(data)
    print(f"written: {folder / 'ratings.csv'}, {folder / 'ratings.json'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        SimulateSettings, simulate_command, argv, prog="python3 -m fastchat.arena.simulate"
    )


if __name__ == "__main__":
    raise SystemExit(main())
