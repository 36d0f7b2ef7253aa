"""Settings: flags, environment and defaults of one frozen dataclass, and how a command ends."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from fastchat.errors import DataError, UsageError
from fastchat.settings import (
    CommaList,
    Env,
    Group,
    NoSwitch,
    ServerSettings,
    WordList,
    alias,
    parse,
    run_command,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A group."""

    depth: Annotated[int, Env("TEST_DEPTH")] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(ServerSettings):
    """An example."""

    inner: Group[Inner] = Inner()
    controller_address: Annotated[str, alias("--controller"), Env("TEST_CONTROLLER")] = "here"
    names: Annotated[CommaList, Env("TEST_NAMES")] = ()
    timeout_s: Annotated[float, Env("TEST_TIMEOUT")] = 3.0
    no_register: NoSwitch = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Kinds of fields that commands have."""

    paths: Annotated[WordList, alias("--in")] = tyro.MISSING
    kinds: CommaList = ()
    limit: int | None = None
    name: Annotated[str | None, alias("--called")] = None
    inner: Group[Inner] = Inner()


def test_dashes_underscores_and_aliases_mean_the_same() -> None:
    for flag in ("--controller", "--controller-address", "--controller_address"):
        assert parse(Example, [flag, "there"]).controller_address == "there"


def test_a_list_of_words_is_the_arguments_of_one_flag() -> None:
    found = parse(Paths, ["--in", "a", "b", "--limit", "3"])
    assert (found.paths, found.limit, found.kinds) == (("a", "b"), 3, ())
    assert parse(Paths, ["--paths", "a", "--kinds", "y, z"]).kinds == ("y", "z")
    assert parse(Paths, ["--paths"]).paths == ()


def test_a_command_starts_without_typeguard() -> None:
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from fastchat.settings import parse; from test_settings import Paths\n"
        "parse(Paths, ['--in', 'a', '--limit', '3'])\n"
        "sys.exit('typeguard' in sys.modules and 'typeguard was imported')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_prefix_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(Example, ["--contr", "there"])
    assert ended.value.code == 2
    assert "--contr" in capsys.readouterr().err


def test_flag_wins_over_environment_and_environment_over_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert parse(Example, []).controller_address == "here"
    monkeypatch.setenv("TEST_CONTROLLER", "environment")
    monkeypatch.setenv("TEST_NAMES", "a, b,")
    monkeypatch.setenv("TEST_DEPTH", "7")
    settings = parse(Example, [])
    assert (settings.controller_address, settings.names) == ("environment", ("a", "b"))
    assert settings.inner.depth == 7
    assert parse(Example, ["--controller", "flag"]).controller_address == "flag"


@pytest.mark.parametrize(
    ("words", "debug"),
    [
        ([], False),
        (["--debug"], True),
        (["--debug", "True"], True),
        (["--debug", "False"], False),
        (["--debug=false"], False),
        (["--no-debug"], False),
    ],
)
def test_switches_take_the_old_spelling_as_well(words: list[str], debug: bool) -> None:
    assert parse(Example, words).debug is debug


def test_a_switch_that_begins_with_no_has_no_counterpart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parse(Example, ["--no-register"]).no_register
    assert not parse(Example, ["--no-register", "False"]).no_register
    with pytest.raises(SystemExit):
        parse(Example, ["--help"])
    assert "--no-no-register" not in capsys.readouterr().out


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="TEST_TIMEOUT='soon'"):
        parse(Example, [])


@pytest.mark.parametrize(("error", "status"), [(UsageError("no"), 2), (DataError("no"), 1)])
def test_a_failed_command_says_one_line_and_its_status(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(settings: Example) -> None:
        raise error

    assert run_command(Example, body, [], prog="python3 -m fastchat.example") == status
    assert capsys.readouterr().err == "fastchat.example: no\n"


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def body(settings: Example) -> None:
        raise DataError("no")

    assert run_command(Example, body, ["--debug"], prog="x") == 1
    assert "Traceback" in capsys.readouterr().err
