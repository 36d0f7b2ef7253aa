"""Runs the whole preparation of ShareGPT data: nine commands, or those of a recipe, in order.

    python3 -m fastchat.data.prepare_all --prefix ~/datasets/sharegpt_20230521

Each command is a call of its function. A step whose files are still as it left them is not run
again; one report says what every step read, kept and dropped.
"""

import importlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastchat.data.files import STANDARD, expand, read_chunks
from fastchat.errors import DataError, UsageError
from fastchat.settings import alias, parse, run_command

WINDOW_NAMES = {4096: "4k", 8192: "8k", 16384: "16k", 32768: "32k"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareAllSettings:
    """Runs the whole preparation of ShareGPT data: nine commands, or those of a recipe."""

    prefix: str = "~/datasets/sharegpt_20230521"
    """Path of the raw file without `_html.json`; the files made begin with it."""
    model_name_or_path: Annotated[str, alias("--model-name")] = "meta-llama/Llama-2-7b-chat-hf"
    """Model whose tokenizer counts the length of conversations."""
    seq_len: int = 4096
    """Longest conversation, in tokens."""
    recipe: str | None = None
    """YAML file that lists the steps, instead of the nine."""
    from_step: str | None = None
    """First step to run, by its number or command."""
    to_step: str | None = None
    """Last step to run."""
    dry_run: bool = False
    """Print the plan and do nothing."""
    force: bool = False
    """Also run steps whose files are as they left them."""
    report: str | None = None
    """Report of all steps; <prefix>_<length>_report.json unless given."""
    workers: Annotated[int | None, alias("--num-proc")] = None
    """Processes; all cores unless given."""
    strict: bool = False
    """Stop with status 2 at the first value that is no record."""
    quiet: bool = False
    """No progress bars."""
    debug: bool = False
    """Show tracebacks of errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the plan."""

    command: str
    """A module of `fastchat.data`."""
    flags: tuple[str, ...]

    def line(self) -> str:
        """The command as it would be typed."""
        return shlex.join(["python3", "-m", f"fastchat.data.{self.command}", *self.flags])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the plan."""
    prog = "python3 -m fastchat.data.prepare_all"
    return run_command(PrepareAllSettings, prepare_all, argv, prog=prog)


def prepare_all(settings: PrepareAllSettings) -> None:
    """Runs, skips or shows each step; stops at the first that fails."""
    plan = recipe_plan(settings.recipe) if settings.recipe else published_plan(settings)
    chosen = _chosen(plan, settings)
    calls = [Call(step) for step in plan]
    history = History(_report_path(settings), calls)
    for number, call in enumerate(calls, start=1):
        if number not in chosen:
            continue
        is_current = not settings.force and history.is_current(call)
        title = f"[{number}/{len(plan)}] {call.step.line()}"
        if is_current or settings.dry_run:
            # What stands after a step that will run is not current any more.
            if not is_current:
                history.stale.update(call.writes)
            print(title + ("  # skipped: its files are up to date" if is_current else ""))
            continue
        print(title, flush=True)
        history.add(call, call.run(settings))
    if not settings.dry_run:
        print(f"report: {history.path}")


def published_plan(settings: PrepareAllSettings) -> list[Step]:
    """The nine steps, with the published names of files."""
    if settings.seq_len < 1:
        raise UsageError(f"--seq-len {settings.seq_len} is less than 1.")
    prefix = os.path.expanduser(settings.prefix)
    base = _base(settings)
    split = f"{base}_clean_lang_split"
    model = ("--model-name", settings.model_name_or_path)
    lines: list[tuple[str, ...]] = [
        ("clean_sharegpt", "--in", f"{prefix}_html.json", "--out", f"{base}_clean.json"),
        (
            *("optional_clean", "--in", f"{base}_clean.json"),
            *("--out", f"{base}_clean_lang.json", "--skip-lang", "ko"),
        ),
        (
            *("split_long_conversation", "--in", f"{base}_clean_lang.json"),
            *("--out", f"{split}.json", *model, "--max-length", str(settings.seq_len)),
        ),
        ("filter_wrong_format", "--in", f"{split}.json", "--out", f"{split}.json"),
        (
            *("split_train_test", "--in", f"{split}.json", "--ratio", "0.99"),
            *("--train-out", f"{split}_train.json", "--test-out", f"{split}_test.json"),
        ),
        ("hardcoded_questions",),
        (
            *("merge", "--in", f"{split}_train.json", "hardcoded.json"),
            *("--out", f"{split}_identity.json"),
        ),
        (
            *("extract_gpt4_only", "--in", f"{split}_identity.json"),
            *("--out", f"{split}_identity_gpt4.json"),
        ),
        (
            *("extract_single_round", "--in", f"{split}_identity.json"),
            *("--out", f"{split}_identity_single.json"),
        ),
    ]
    return [Step(command=command, flags=tuple(flags)) for command, *flags in lines]


def recipe_plan(path: str) -> list[Step]:
    """The steps of a recipe: under `steps` a list, each a command with its flags.

        steps:
          - clean_sharegpt: {in: raw.json, out: clean.json}
          - merge: {in: [clean.json, more.jsonl], out: all.json, dedup: true}

    Raises:
        UsageError: the file is missing or has another shape.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    steps = found.get("steps") if isinstance(found, dict) else None
    if not isinstance(steps, list) or not steps:
        raise UsageError(f"{path} has no list `steps`; see docs/data.md.")
    return [_recipe_step(step, f"{path}: step {i}") for i, step in enumerate(steps, start=1)]


def _recipe_step(step: object, where: str) -> Step:
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, dict) or len(step) != 1:
        raise UsageError(f"{where} is not one command with its flags.")
    [(command, given)] = step.items()
    if command not in _commands():
        known = ", ".join(_commands())
        raise UsageError(f"{where}: there is no command {command!r}; there are {known}.")
    if not isinstance(given or {}, dict):
        raise UsageError(f"{where}: the flags of {command} are not a mapping.")
    flags: list[str] = []
    for name, value in (given or {}).items():
        if value is False or value is None:
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        flags += [f"--{name}", *map(str, values)]
    return Step(command=command, flags=tuple(flags))


def _commands() -> list[str]:
    """The commands that a plan can hold."""
    return [
        *("clean_sharegpt", "convert_alpaca", "extract_gpt4_only", "extract_single_round"),
        *("filter_wrong_format", "hardcoded_questions", "merge", "optional_clean"),
        *("optional_replace", "pretty_json", "sample", "split_long_conversation"),
        "split_train_test",
    ]


class Call:
    """A step with its settings read, and the files that it reads and writes."""

    def __init__(self, step: Step) -> None:
        self.step = step
        module = importlib.import_module(f"fastchat.data.{step.command}")
        words = step.command.split("_")
        self._settings_class = getattr(module, "".join(map(str.title, words)) + "Settings")
        self._body: Callable[[Any], Any] = getattr(module, step.command)
        settings = self._parsed()
        self.reads: list[str] = list(getattr(settings, "in_file", ()))
        out_files = getattr(module, "out_files", None)
        outs = out_files(settings) if out_files else (settings.out_file,)
        if None in outs or STANDARD in (*self.reads, *outs):
            raise UsageError(f"{step.line()}: a step of a plan reads and writes files; name them.")
        self.writes: list[str] = list(outs)

    def _parsed(self, *more: str) -> Any:
        return parse(self._settings_class, [*self.step.flags, *more], prog=self.step.command)

    def run(self, settings: PrepareAllSettings) -> dict[str, Any]:
        """Runs the command; returns its report."""
        if self.step.command == "hardcoded_questions":
            self._body(self._parsed())
            n = sum(chunk.n_values for chunk in read_chunks(self.writes))
            return {"in": 0, "out": n, "read": 0, "kept": n}
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report.json")
            more = ["--report", report]
            if settings.workers is not None:
                more += ["--workers", str(settings.workers)]
            more += ["--strict"] * settings.strict + ["--quiet"] * settings.quiet
            self._body(self._parsed(*more))
            return json.loads(Path(report).read_text("utf-8"))


class History:
    """The report of all steps, which also tells which of them need not run again."""

    def __init__(self, path: Path, calls: Sequence[Call]) -> None:
        self.path = path
        self.stale: set[str] = set()
        """Files written by steps of this run."""
        self._calls = calls
        self._entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self._entries = {x["command"]: x for x in json.loads(path.read_text("utf-8"))}
            except (ValueError, TypeError, KeyError):
                raise DataError(
                    f"{path} is not a report of this command; remove it or name another --report."
                ) from None

    def is_current(self, call: Call) -> bool:
        """Whether the step's files are as the last run of the plan left them.

        A file that a later step wrote over counts as that one left it. Without a report,
        outputs that are newer than the inputs count.
        """
        if not self.stale.isdisjoint(call.reads) or not self.stale.isdisjoint(call.writes):
            return False
        if not all(os.path.exists(path) for path in call.writes):
            return False
        if not self._entries:
            return not set(call.reads) & set(call.writes) and _are_newer(call)
        entry = self._entries.get(call.step.line())
        if entry is None:
            return False
        expected = dict(entry["inputs"])
        for other in self._calls:
            left = self._entries.get(other.step.line())
            for path in other.writes:
                expected[path] = left["outputs"].get(path) if left else None
        return all(expected.get(path) == _identity(path) for path in [*call.reads, *call.writes])

    def add(self, call: Call, report: dict[str, Any]) -> None:
        """Takes up a step that has run, and writes the report."""
        self.stale.update(call.writes)
        self._entries[call.step.line()] = {
            "command": call.step.line(),
            "inputs": {path: _identity(path) for path in call.reads},
            "outputs": {path: _identity(path) for path in call.writes},
            **report,
        }
        order = [call.step.line() for call in self._calls]
        entries = [self._entries[line] for line in order if line in self._entries]
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            fresh.write_text(json.dumps(entries, ensure_ascii=False, indent=2) + "\n", "utf-8")
            os.replace(fresh, self.path)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}.") from None


def _are_newer(call: Call) -> bool:
    if not call.reads:
        return False
    read = [os.path.getmtime(path) for path in expand(call.reads) if os.path.exists(path)]
    return bool(read) and min(map(os.path.getmtime, call.writes)) > max(read)


def _identity(path: str) -> list[int] | None:
    """Size and time of change; None when there is no such file."""
    try:
        found = os.stat(os.path.expanduser(path))
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _chosen(plan: Sequence[Step], settings: PrepareAllSettings) -> range:
    first = _number(plan, settings.from_step, "--from-step") or 1
    last = _number(plan, settings.to_step, "--to-step") or len(plan)
    if first > last:
        raise UsageError(f"--from-step {settings.from_step} comes after --to-step.")
    return range(first, last + 1)


def _number(plan: Sequence[Step], text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    names = [step.command for step in plan]
    if text in names:
        return names.index(text) + 1
    if text.isdecimal() and 1 <= int(text) <= len(plan):
        return int(text)
    raise UsageError(
        f"{flag} {text!r} is no step; the steps are 1 to {len(plan)}: {', '.join(names)}."
    )


def _base(settings: PrepareAllSettings) -> str:
    length = WINDOW_NAMES.get(settings.seq_len, str(settings.seq_len))
    return f"{os.path.expanduser(settings.prefix)}_{length}"


def _report_path(settings: PrepareAllSettings) -> Path:
    if settings.report:
        return Path(settings.report).expanduser()
    if settings.recipe:
        return Path(settings.recipe).with_name(Path(settings.recipe).stem + "_report.json")
    return Path(_base(settings) + "_report.json")


if __name__ == "__main__":
    sys.exit(main())
