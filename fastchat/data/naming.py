"""Names of outputs that follow from the name of the input."""

from pathlib import Path

from fastchat.data.files import STANDARD
from fastchat.data.pipeline import PipelineSettings
from fastchat.errors import UsageError

_ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet")
_COMPRESSIONS = (".gz", ".zst")


def beside(settings: PipelineSettings, word: str) -> str:
    """`<name>_<word>` beside the only input, with the same ending, where no output is named.

    Raises:
        UsageError: the input has no single name to go by.
    """
    if settings.out_file is not None:
        return settings.out_file
    return named(only_input(settings, "--out-file"), word)


def only_input(settings: PipelineSettings, flag: str) -> str:
    """The one input file.

    Raises:
        UsageError: there are several, or it is standard input.
    """
    inputs = settings.in_file
    if len(inputs) != 1 or inputs[0] == STANDARD or any(letter in inputs[0] for letter in "*?["):
        raise UsageError(f"name the output with {flag}: it cannot be told from the input's name.")
    return inputs[0]


def named(path: str, word: str) -> str:
    """The path with `_<word>` before its ending; of the folders in it none is touched."""
    file = Path(path)
    ending = ""
    for endings in (_COMPRESSIONS, _ENDINGS):
        if (suffix := Path(file.name).suffix).lower() in endings:
            ending = suffix + ending
            file = file.with_suffix("")
    return str(file) + f"_{word}" + (ending or ".json")
