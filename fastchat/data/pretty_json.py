"""Writes data anew: JSON two blanks deep, or another format that the name of the output says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastchat.data.files import Broken, open_writer, read_values
from fastchat.data.output import FileFormat
from fastchat.errors import DataError
from fastchat.settings import alias, run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class PrettyJsonSettings:
    """Writes JSON, JSON Lines or Parquet anew, one value at a time; JSON is indented by two."""

    in_file: Annotated[tuple[str, ...], alias("--in")] = tyro.MISSING
    """Files or patterns; - is standard input."""
    out_file: Annotated[str, alias("--out")] = tyro.MISSING
    """Where to write; it may be the input."""
    format: FileFormat | None = None
    """Format of the output, where its name does not say it."""
    debug: bool = False
    """Show tracebacks of errors."""


def pretty_json(settings: PrettyJsonSettings) -> None:
    """Copies every value, whatever it is."""
    with open_writer(settings.out_file, settings.format) as writer:
        for found in read_values(settings.in_file):
            if isinstance(found.value, Broken):
                raise DataError(
                    f"{found.where}: {found.value.reason}; correct or remove this line."
                )
            writer.write(found.value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return run_command(
        PrettyJsonSettings, pretty_json, argv, prog="python3 -m fastchat.data.pretty_json"
    )


if __name__ == "__main__":
    raise SystemExit(main())
