"""Settings: one frozen dataclass per process becomes its flags, environment and defaults.

A group of settings may stand as a field, as `Group[ModelSettings]`: its flags have no prefix.
A value comes from the flag, else from the environment variable named by `Env`, else from
the default. Underscores and dashes are the same in a flag; a prefix is never guessed:
short forms that were published are declared as aliases. Only this module reads
`os.environ` on behalf of a process.
"""

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import get_annotations
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from fastchat.errors import FastChatError, UsageError

S = TypeVar("S")

if TYPE_CHECKING:
    _Words = tuple[str, ...]
else:
    # A plain class: for `tuple[str, ...]` tyro asks typeguard, and importing that takes as long
    # as all the rest of a command's start.
    _Words = tuple

CommaList = Annotated[
    _Words,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B",
        instance_from_str=lambda args: tuple(x.strip() for x in args[0].split(",") if x.strip()),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)],
    ),
]
"""Several words in one argument, separated by commas."""

NameList = Annotated[
    _Words,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="A,B|A B",
        instance_from_str=lambda args: tuple(
            name.strip() for arg in args for name in arg.split(",") if name.strip()
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    ),
]
"""Names in arguments of their own, as published, or separated by commas."""

WordList = Annotated[
    _Words,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[STR [STR ...]]",
        instance_from_str=tuple,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=list,
    ),
]
"""Several arguments of one flag; what `tuple[str, ...]` means, without typeguard."""


@dataclass(frozen=True, slots=True)
class Env:
    """Annotation that names the environment variable of a field."""

    name: str


NoSwitch = tyro.conf.FlagCreatePairsOff[bool]
"""A switch whose published name begins with `no-`: it gets no counterpart."""

Group = tyro.conf.OmitArgPrefixes
"""Annotation of a field that holds a group of settings of its own."""


def alias(*names: str) -> Any:
    """Annotation that declares published short forms of a flag: `alias("--controller")`."""
    return tyro.conf.arg(aliases=list(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where a server listens."""

    host: str = "localhost"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    ssl: bool = False
    """Serve TLS with the files named by SSL_KEYFILE and SSL_CERTFILE."""
    ssl_keyfile: Annotated[str | None, Env("SSL_KEYFILE")] = None
    """Private key for --ssl."""
    ssl_certfile: Annotated[str | None, Env("SSL_CERTFILE")] = None
    """Certificate for --ssl."""
    debug: bool = False
    """Log at DEBUG level and show tracebacks."""


def parse(cls: type[S], argv: Sequence[str] | None = None, *, prog: str | None = None) -> S:
    """Reads `cls` from flags, environment and defaults.

    Args:
        cls: a frozen dataclass; its docstring is the help page's first paragraph.
        argv: arguments without the program's name; None takes those of the process.
        prog: the command as the help page should print it.

    Raises:
        SystemExit: 0 after `--help`, 2 for a flag or value that is not known.
        UsageError: an environment variable does not fit its field.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _spell_unions_out(cls)
    return tyro.cli(
        cls,
        args=_booleans_as_switches(cls, arguments),
        default=cls(**_from_environment(cls)),
        prog=prog,
    )


def run_command(
    cls: type[S],
    body: Callable[[S], int | None],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
) -> int:
    """Parses the settings, runs `body` and turns errors into one line and an exit status.

    The status is 2 for the caller's mistakes, 1 for other failures, 130 after Ctrl-C. With
    `--debug` the traceback is printed as well.
    """
    debug = False
    try:
        settings = parse(cls, argv, prog=prog)
        debug = bool(getattr(settings, "debug", False))
        return body(settings) or 0
    except FastChatError as error:
        if debug:
            traceback.print_exc()
        print(f"{prog.split()[-1]}: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130


def _spell_unions_out(cls: type) -> None:
    """Writes `X | None` in the annotations as `Union[X, None]`, which is the same.

    Before Python 3.14 tyro asks typeguard about the former, and importing that takes as long as
    all the rest of a command's start.
    """
    for base in cls.__mro__:
        own = get_annotations(base)
        if not own or not dataclasses.is_dataclass(base):
            continue
        hints = get_type_hints(base, include_extras=True)
        for name in own:
            base.__annotations__[name] = spelled = _spelled_out(hints[name])
            kind = get_args(spelled)[0] if get_origin(spelled) is Annotated else spelled
            if dataclasses.is_dataclass(kind):
                _spell_unions_out(cast(type, kind))


def _spelled_out(hint: Any) -> Any:
    """The type with `Union` for `|`."""
    if get_origin(hint) is UnionType:
        return Union[get_args(hint)]  # noqa: UP007
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return Annotated[_spelled_out(kind), *notes, _SPELLED_OUT]
    return hint


_SPELLED_OUT = object()
"""Before Python 3.11.5 `Annotated` would give back the equal type that it made with `|`."""


def _from_environment(cls: type) -> dict[str, Any]:
    """Values of the fields whose environment variable is set."""
    values: dict[str, Any] = {}
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *notes = get_args(hint)
        if dataclasses.is_dataclass(kind) and (inner := _from_environment(cast(type, kind))):
            values[field.name] = cast(type, kind)(**inner)
        for note in notes:
            if isinstance(note, Env) and (text := os.environ.get(note.name)) is not None:
                values[field.name] = _value_from_text(hint, text, note.name)
    return values


def _value_from_text(hint: Any, text: str, name: str) -> Any:
    """The value of `text` in a field of type `hint`."""
    if tuple in (get_args(hint)[0], get_origin(get_args(hint)[0])):
        return tuple(x.strip() for x in text.split(",") if x.strip())
    base = get_args(hint)[0]
    kinds = get_args(base) or (base,)
    if bool in kinds:
        return text.strip().lower() in ("1", "true", "yes", "on")
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                message = f"{name}={text!r} is not a number; correct or unset this variable."
                raise UsageError(message) from None
    return text


def _booleans_as_switches(cls: type, argv: Sequence[str]) -> list[str]:
    """Lets `--flag True` and `--flag=false` stand for `--flag` and `--no-flag`."""
    switches = {name.replace("_", "-") for name in _switches(cls)}
    result: list[str] = []
    words = iter(range(len(argv)))
    for i in words:
        flag, _, value = argv[i].partition("=")
        name = flag.removeprefix("--").replace("_", "-")
        if not flag.startswith("--") or name not in switches:
            result.append(argv[i])
            continue
        if not value and i + 1 < len(argv) and argv[i + 1].lower() in ("true", "false"):
            value = argv[next(words)]
        if value.lower() != "false":
            result.append(f"--{name}")
        elif not name.startswith("no-"):
            result.append(f"--no-{name}")
    return result


def _switches(cls: type) -> list[str]:
    """Names of the fields that are true or false, those of groups within `cls` as well."""
    names: list[str] = []
    for name, kind in get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            names += _switches(cast(type, kind))
        elif kind is bool:
            names.append(name)
    return names
