"""Fetches MT-bench's published questions, answers and judgments.

python3 -m fastchat.llm_judge.download_mt_bench_pregenerated

The files are on the Hugging Face hub, whose own client fetches them: it goes on where it was
broken off and checks what it got. They are copied into the data folder; a file that is there
already stays as it is.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fastchat.errors import UnavailableError
from fastchat.llm_judge.extras import needing_extras
from fastchat.settings import run_command

PROG = "python3 -m fastchat.llm_judge.download_mt_bench_pregenerated"
SPACE = "lmsys/mt-bench"
PREFIX = "data/mt_bench/"

Part = Literal["all", "question", "reference_answer", "model_answer", "model_judgment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadSettings:
    """Fetches the published MT-bench files into data/mt_bench."""

    data_dir: Path = Path("data")
    """Folder that holds the benchmarks."""
    only: Part = "all"
    """Which files."""
    base_url: str = "https://huggingface.co"
    """Hub to fetch from, or a mirror of it."""
    revision: str = "main"
    """Branch, tag or commit."""
    force: bool = False
    """Replace files that are there."""
    debug: bool = False
    """Show tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0 when every file is there."""
    return run_command(DownloadSettings, needing_extras(_run), argv, prog=PROG)


def _run(settings: DownloadSettings) -> None:
    n_new, n_all = fetch(settings, tell=print)
    print(f"{n_new} files fetched, {n_all - n_new} were there.")


def fetch(settings: DownloadSettings, *, tell: Callable[[str], object]) -> tuple[int, int]:
    """Copies the wanted files into the data folder; how many are new, and how many there are.

    Raises:
        UnavailableError: the hub cannot be reached, or has no such files.
    """
    from fastchat.llm_judge.lines import replace_file

    names = wanted(_ask(settings, _list, None), settings.only)
    if not names:
        raise UnavailableError(f"{settings.base_url} has no such files in the space {SPACE}.")
    n_new = 0
    for i, name in enumerate(names, 1):
        target = settings.data_dir / "mt_bench" / name.removeprefix(PREFIX)
        if settings.force or not target.exists():
            cached = _ask(settings, _fetch, name)
            replace_file(target, Path(cached).read_bytes())
            n_new += 1
        tell(f"[{i}/{len(names)}] {target}")
    return n_new, len(names)


def wanted(names: Iterable[str], only: Part) -> list[str]:
    """The benchmark's files among those of the space."""
    found: list[str] = []
    for name in sorted(names):
        parts = PurePosixPath(name.removeprefix(PREFIX)).parts
        is_ours = name.startswith(PREFIX) and name.endswith(".jsonl") and ".." not in parts
        if is_ours and only in ("all", parts[0].removesuffix(".jsonl")):
            found.append(name)
    return found


def _ask(settings: DownloadSettings, what: Any, name: str | None) -> Any:
    """What the hub answers.

    Raises:
        UnavailableError: it cannot be reached, or has no such thing.
    """
    try:
        return what(settings, name)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the client's errors have many bases, one of them OSError
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnavailableError(
            f"{settings.base_url} could not be asked for {name or 'the list of files'} ({reason}). "
            "With a network, the same command goes on where it stopped. Without one, "
            "`--bench-name fastchat_bench` ships with the package."
        ) from None


def _list(settings: DownloadSettings, _: str | None) -> list[str]:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=settings.base_url)
    return api.list_repo_files(SPACE, repo_type="space", revision=settings.revision)


def _fetch(settings: DownloadSettings, name: str) -> str:
    from huggingface_hub import hf_hub_download

    return hf_hub_download(
        SPACE,
        name,
        repo_type="space",
        revision=settings.revision,
        endpoint=settings.base_url,
    )


if __name__ == "__main__":
    sys.exit(main())
