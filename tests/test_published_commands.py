"""Every published command line is understood by the program it names, which is not run."""

import dataclasses
import importlib
import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastchat import settings

HERE = Path(__file__).resolve().parent
LIST = HERE / "published_commands.txt"
TO_COME = HERE / "commands_to_come.txt"

# What the documents leave to the reader, and what the list has instead.
FILLED_IN = {
    "<your_random_port>": "20001",
    "<path-to-llama-model-weight>": "./llama-7b",
    "<path-to-data>": "data/dummy_conversation.json",
}
# How a command begins, and what may follow its end, in the documents.
START = re.compile(
    r"(?:(?<=\n)|(?<=`)|(?<=[^\w`] ))(?:[A-Z_]+=\S+ )*"
    r"(?:python3? -m \S|torchrun -|pip3? install |git clone |cd \w|brew install |"
    r"sky (?:spot )?launch|source /|export [A-Z])"
)
END = re.compile(r"\s*(?:$|\n|`|#|Vicuna-13B #)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    document: str
    command: str
    external: str | None

    @property
    def environment(self) -> dict[str, str]:
        """The variables set before the program, or by `export`."""
        words = self.command.removeprefix("export ")
        found = re.match(r"((?:[A-Z_]+=\S+(?:\s|$))*)", words)
        assert found
        return dict(word.split("=", 1) for word in found[1].split())

    @property
    def argv(self) -> list[str]:
        """The program with its arguments, as the shell splits them."""
        words = shlex.split(self.command.removeprefix("export "))
        return words[len(self.environment) :]

    @property
    def module(self) -> str | None:
        """The module of ours that it starts."""
        argv = self.argv
        if argv[:1] == ["torchrun"]:
            script = next(word for word in argv if word.endswith(".py"))
            return script.removesuffix(".py").replace("/", ".")
        return argv[2] if argv[:2] == ["python3", "-m"] else None

    @property
    def arguments(self) -> list[str]:
        """What that module is given."""
        argv = self.argv
        if argv[0] == "torchrun":
            return argv[next(i for i, word in enumerate(argv) if word.endswith(".py")) + 1 :]
        return argv[3:]


def entries(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def published() -> list[Published]:
    rows = [line.split(" | ") for line in entries(LIST)]
    return [
        Published(
            document=row[0],
            command=row[1],
            external=row[2].removeprefix("external: ") if len(row) > 2 else None,
        )
        for row in rows
    ]


OURS = [line for line in published() if line.external is None]
WAITING = entries(TO_COME)


def is_built(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def parsed_settings(module_name: str, arguments: list[str]) -> Any:
    """The settings that the command's own `main` would run with."""
    module = importlib.import_module(module_name)
    if module_name.startswith("fastchat.train."):
        from fastchat.train import arguments as training

        return training.parse(arguments, prog=module_name)
    seen: list[Any] = []

    def run_command(cls: type, body: object, argv: list[str], *, prog: str) -> int:
        assert prog.endswith(module_name), "the help page must print the command as it is typed"
        seen.append(settings.parse(cls, argv, prog=prog))
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_command", run_command)
        assert module.main(arguments) == 0
    return seen[0]


@pytest.mark.parametrize(
    "line",
    [
        # The training parser is transformers' own, whose import takes seconds.
        pytest.param(
            line,
            id=f"{line.document}: {line.command[:90]}",
            marks=[pytest.mark.slow] if "torchrun" in line.command else [],
        )
        for line in OURS
    ],
)
def test_the_program_understands_its_published_line(
    line: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in line.environment.items():
        monkeypatch.setenv(name, value)
    if line.command.startswith("export "):
        # It changes where every program that loads a model looks for it.
        assert parsed_settings("fastchat.serve.cli", []).model.use_modelscope
        return
    module = line.module
    assert module is not None, f"{line.command!r}: name the program or mark the line external"
    if module in WAITING:
        assert not is_built(module)
        return
    parsed = parsed_settings(module, line.arguments)
    if module.startswith("fastchat.train."):
        given = dict(zip(line.arguments[::2], line.arguments[1::2], strict=True))
        assert parsed.model.model_name_or_path == given["--model_name_or_path"]
        assert parsed.data.data_path == [given["--data_path"]]
        assert parsed.training.output_dir == given["--output_dir"]
    else:
        check_values(parsed, line)


def check_values(parsed: Any, line: Published) -> None:
    """Each value of the line has arrived in the field that its flag or a longer one names."""
    words = line.arguments
    held = fields_of(parsed)
    for i, flag in enumerate(words):
        if not flag.startswith("--"):
            continue
        value = words[i + 1] if i + 1 < len(words) else ""
        stem = flag.removeprefix("--").replace("-", "_")
        values = [held[name] for name in held if name.startswith(stem)]
        if not values:  # `cli --model-name`, as published in 2023
            values = [held["model_path"]]
        expected = True if not value or value.startswith("--") else value
        assert str(expected) in map(str, values), f"{flag} {value}: {values}"
    if isa := line.environment.get("CPU_ISA"):
        assert held["cpu_isa"] == isa


def fields_of(parsed: Any) -> dict[str, Any]:
    """The settings by name, those of groups within them as well."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(parsed):
        value = getattr(parsed, field.name)
        result |= fields_of(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return result


@pytest.mark.parametrize("module", WAITING)
def test_a_program_still_to_come_is_not_there_yet_and_is_asked_for(module: str) -> None:
    assert not is_built(module), f"{module} is built: remove it from {TO_COME.name}"
    assert module in {line.module for line in OURS}, f"no published line asks for {module}"


def test_lines_that_are_not_ours_say_what_they_do() -> None:
    for line in published():
        assert line.external != ""
        assert line.external is None or "fastchat." not in line.command
        assert line.document in list("01234")


def test_no_line_of_the_documents_is_missing(shared: Path) -> None:
    missing: list[str] = []
    for path in sorted((shared / "seeds").glob("*.txt")):
        document = str(int(path.name.split("_")[0]))
        known = [line.command for line in published() if line.document == document]
        text = plain(path.read_text("utf-8"))
        for start in START.finditer(text):
            rest = text[start.start() :]
            if not any(rest.startswith(c) and END.match(rest, len(c)) for c in known):
                missing.append(f"{document} | {rest[:120].splitlines()[0]}")
    assert missing == []


def test_no_line_of_the_list_is_invented(shared: Path) -> None:
    for path in sorted((shared / "seeds").glob("*.txt")):
        document = str(int(path.name.split("_")[0]))
        text = plain(path.read_text("utf-8"))
        invented = [
            line.command
            for line in published()
            if line.document == document and line.command not in text
        ]
        assert invented == []


def plain(text: str) -> str:
    """A document with continued lines joined, blanks single and its gaps filled in."""
    text = re.sub(r"\s\\\s+", " ", "\n" + text)
    for gap, value in FILLED_IN.items():
        text = text.replace(gap, value)
    return re.sub(r"[ \t]+", " ", text)
