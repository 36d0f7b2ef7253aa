"""Writes the data of the static page from the tables, and the page beside it where it is not.

python3 -m fastchat.eval.generate_webpage_data_from_table --input table
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastchat.settings import alias, run_command

PROG = "python3 -m fastchat.eval.generate_webpage_data_from_table"
PAGE = Path(__file__).parent / "webpage"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebpageSettings:
    """Makes the static page that shows questions, answers and reviews."""

    input: Annotated[Path, alias("-i")] = Path("table")
    """Folder of tables: question.jsonl, answer/answer_*.jsonl, review/review_*.jsonl."""
    output: Annotated[Path, alias("-o")] = Path("webpage/data.json")
    """Where the page's data goes; the page's own files are put beside it where they lack."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when the page is there."""
    return run_command(WebpageSettings, _run, argv, prog=PROG)


def _run(settings: WebpageSettings) -> None:
    import orjson

    from fastchat.eval.page_data import page_data, read_tables
    from fastchat.llm_judge.lines import replace_file

    value = page_data(read_tables(settings.input))
    replace_file(settings.output, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    folder = settings.output.parent
    for part in sorted(PAGE.iterdir()):
        if part.suffix in (".html", ".css", ".js") and not (folder / part.name).exists():
            replace_file(folder / part.name, part.read_bytes())
    print(
        f"{settings.output}: {len(value['questions'])} questions, {len(value['models'])} models "
        f"beside {value['ours']}. Show it: python3 -m http.server --bind 127.0.0.1 --directory "
        f"{folder}"
    )


if __name__ == "__main__":
    sys.exit(main())
