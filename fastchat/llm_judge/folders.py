"""Where a benchmark's files are, under the published names.

What is read is looked for in the data folder first, then among what ships with the package; what
is written always goes to the data folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from fastchat.errors import DataError, UsageError
from fastchat.llm_judge.lines import Rows, read_rows
from fastchat.llm_judge.records import Answer, PairJudgment, Question, SingleJudgment

PACKAGED = Path(__file__).parent / "data"
OWN_BENCH = "fastchat_bench"
"""The benchmark that ships with the package."""
PUBLISHED_BENCH = "mt_bench"
"""The one that is fetched when it is asked for and not here."""
CORRECTED = PACKAGED / PUBLISHED_BENCH / "corrected_reference.jsonl"
"""What replaces those of its reference answers that are known to be wrong."""
CORRECTED_ID = "corrected-"
"""How the ids of these answers begin."""


def file_name(model: str) -> str:
    """A model's name as the name of a file: `/` and what else cannot stand there is escaped."""
    if not model or model in (".", ".."):
        raise UsageError(f"{model!r} cannot name a model; give another --model-id.")
    return "".join(f"%{ord(c):02X}" if c in '/\\%:*?"<>|' or c < " " else c for c in model)


def model_name(path: Path) -> str:
    """The model whose file this is."""
    return unquote(path.name.removesuffix(".jsonl"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The folders of one benchmark."""

    data_dir: Path
    name: str

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise UsageError(f"--bench-name {self.name!r}: give the name of a folder in data.")

    @property
    def folder(self) -> Path:
        return self.data_dir / self.name

    @property
    def question_file(self) -> Path:
        return self.find("question.jsonl")

    def find(self, name: str) -> Path:
        """A file to read: the user's own, else the one that ships."""
        own = self.folder / name
        packaged = PACKAGED / self.name / name
        return packaged if not own.exists() and packaged.exists() else own

    def answer_file(self, model: str) -> Path:
        return self.folder / "model_answer" / f"{file_name(model)}.jsonl"

    def reference_file(self, judge: str | None) -> Path:
        """The judge's own reference answers, else the first there are.

        Published: the file is named after the judge. Another judge takes what there is.
        """
        own = self.find(f"reference_answer/{file_name(judge or 'gpt-4')}.jsonl")
        if own.exists():
            return own
        for folder in (self.folder, PACKAGED / self.name):
            found = sorted((folder / "reference_answer").glob("*.jsonl"))
            if found:
                return found[0]
        return own

    def judgment_file(self, judge: str, mode: str) -> Path:
        kind = "single" if mode == "single" else "pair"
        return self.folder / "model_judgment" / f"{file_name(judge)}_{kind}.jsonl"

    def cache_file(self, model: str) -> Path:
        return self.folder / "cache" / f"{file_name(model)}.jsonl"

    def manifest_file(self, name: str) -> Path:
        return self.folder / "manifest" / f"{file_name(name)}.jsonl"

    def models(self) -> list[str]:
        """Names of the models that have answers."""
        return sorted(model_name(p) for p in (self.folder / "model_answer").glob("*.jsonl"))

    def questions(self, begin: int | None = None, end: int | None = None) -> tuple[Question, ...]:
        """The questions in the order of the file.

        Raises:
            DataError: there is no such file, or a row of it is no question.
        """
        path = self.question_file
        if not path.exists() and self.name == PUBLISHED_BENCH:
            _fetch_published(self.data_dir)
        if not path.exists():
            raise DataError(
                f"{path}: there are no questions. "
                f"`--bench-name {OWN_BENCH}` ships with the package."
            )
        held = read_rows(path, Question, lambda row: row.question_id)
        if faults := held.report():
            raise DataError(f"{faults[0]}. Correct the file of questions first.")
        chosen = held.rows[begin:end]
        if not chosen:
            raise UsageError(
                f"--question-begin {begin} --question-end {end} leaves none of the "
                f"{len(held.rows)} questions."
            )
        return chosen

    def answers(self, model: str) -> Rows[Answer]:
        return read_answers(self.answer_file(model))

    def references(self, judge: str | None, *, is_corrected: bool = True) -> Rows[Answer]:
        """Reference answers; of MT-bench's own, those known to be wrong corrected."""
        held = read_answers(self.reference_file(judge))
        if not is_corrected or self.name != PUBLISHED_BENCH:
            return held
        better = {row.question_id: row for row in read_answers(CORRECTED).rows}
        return replace(held, rows=tuple(better.get(r.question_id, r) for r in held.rows))


def read_answers(path: Path) -> Rows[Answer]:
    """A file of answers, the last to each question."""
    return read_rows(path, Answer, lambda row: row.question_id)


def read_single(path: Path) -> Rows[SingleJudgment]:
    """A file of grades."""
    return read_rows(path, SingleJudgment, lambda row: row.key)


def read_pairs(path: Path) -> Rows[PairJudgment]:
    """A file of verdicts on pairs."""
    return read_rows(path, PairJudgment, lambda row: row.key)


def chosen_models(bench: Bench, wanted: Sequence[str]) -> list[str]:
    """The models to judge or show: those wanted, else all that have answers.

    Raises:
        UsageError: one that is wanted has no answers, or none has.
    """
    known = bench.models()
    missing = [model for model in wanted if model not in known]
    if missing or not known:
        named = ", ".join(missing) or "any model"
        raise UsageError(
            f"There are no answers of {named} in {bench.folder / 'model_answer'}; make them with "
            "gen_model_answer or gen_api_answer"
            + (f". There are those of {', '.join(known)}." if known else ".")
        )
    return list(wanted) or known


def _fetch_published(data_dir: Path) -> None:
    """Puts MT-bench's questions and reference answers into the data folder.

    Raises:
        UnavailableError: the hub cannot be reached.
    """
    from fastchat.llm_judge import download_mt_bench_pregenerated as download
    from fastchat.llm_judge.running import say

    say([f"MT-bench is not in {data_dir} and is fetched from the hub."])
    for part in ("reference_answer", "question"):
        settings = download.DownloadSettings(data_dir=data_dir, only=part)
        download.fetch(settings, tell=lambda line: say([line]))
