"""The memory of a command does not depend on how many records it gets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = ["--model-name-or-path", "vicuna-tiny"]
COMMANDS = {
    "optional_clean": ["--skip-lang", "ko", "--workers", "1"],
    "optional_replace": [*MODEL, "--workers", "1"],
    "split_long_conversation": [*MODEL, "--max-length", "512", "--workers", "1"],
    "filter_wrong_format": ["--workers", "1"],
    "extract_gpt4_only": [],
    "extract_single_round": [],
    "get_stats": MODEL,
    "merge": [],
    "pretty_json": [],
}
"""Those that need no shuffle; clean_sharegpt has a test of its own."""

# Not getrusage, which begins with what the process held that started this one.
MEASURED = """
import importlib, sys
status = importlib.import_module("fastchat.data." + sys.argv[1]).main(sys.argv[2:])
assert not status
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """2,000 and 20,000 records; the larger would take ten times what is allowed if it were held."""
    folder = tmp_path_factory.mktemp("records")
    made: list[Path] = []
    for n in (2000, 20_000):
        made.append(folder / f"{n}.json")
        with made[-1].open("w", encoding="utf-8") as file:
            file.write("[")
            for i in range(n):
                said = f"The answer to question {i} is a long one. " * 20
                talk = [{"from": "human", "value": f"What is {i}?"}, {"from": "gpt", "value": said}]
                record = {"id": f"r{i}", "conversations": talk * 2}
                file.write(("," if i else "") + json.dumps(record))
            file.write("]")
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_ten_times_the_records_take_no_more_memory(
    name: str, files: list[Path], tmp_path: Path
) -> None:
    place = [] if name == "get_stats" else ["--out", str(tmp_path / "out.json")]
    peaks: list[int] = []
    for path in files:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, name, "--in", str(path), *place, *COMMANDS[name]],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.2 * peaks[0]
