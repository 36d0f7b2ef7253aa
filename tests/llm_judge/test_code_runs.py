import os
from pathlib import Path

import pytest

from fastchat.llm_judge.code_runs import Limits, program_of, run_tests

AMPLE = Limits(seconds=180.0)
"""More than a slow machine needs for what ends by itself."""


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("def f(): pass", "def f(): pass"),
        ("Here:\n```python\na = 1\n```\nand\n```py\nb = 2\n```\n", "a = 1\n\nb = 2\n"),
        ("```\na = 1\n```", "a = 1\n"),
        ("```bash\nls\n```\n```python\na = 1\n```", "a = 1\n"),
    ],
)
def test_the_program_is_found_in_an_answer(answer: str, program: str) -> None:
    assert program_of(answer) == program


async def test_a_right_program_passes_and_a_wrong_one_says_why() -> None:
    right = await run_tests("import math\ndef f(x): return math.sqrt(x)", "assert f(4) == 2", AMPLE)
    assert right.passed and right.reason == "the tests passed"
    wrong = await run_tests("def f(x): return 3", "assert f(4) == 2, f(4)", AMPLE)
    assert not wrong.passed and wrong.reason == "the tests: AssertionError: 3"
    broken = await run_tests("def f(x) return 3", "f(1)", AMPLE)
    assert broken.reason.startswith("the program: SyntaxError")


@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        'print(\'{"secret": "x"}\')\nimport os; os._exit(0)',
        "import sys; sys.stdin.read()",
        "import os; os.close(0)",
    ],
)
async def test_a_program_that_ends_before_its_tests_has_not_passed(program: str) -> None:
    assert not (await run_tests(program, "pass", AMPLE)).passed


@pytest.mark.slow
async def test_time_memory_and_files_have_limits() -> None:
    late = await run_tests("while True: pass", "pass", Limits(seconds=1.0))
    assert not late.passed and late.reason in ("no end within 1 s", "ended early")
    big = await run_tests("x = bytearray(10**10)", "pass", AMPLE)
    assert big.reason == "the program: MemoryError: "
    long = await run_tests("open('a', 'wb').write(bytes(2_000_000))", "pass", AMPLE)
    assert "File too large" in long.reason


async def test_the_environment_stays_here_and_the_folder_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = "import os; open('x', 'w').write('1')"
    result = await run_tests(seen, "assert 'OPENAI_API_KEY' not in os.environ", AMPLE)
    assert result.passed and list(tmp_path.iterdir()) == []


async def test_where_the_system_can_there_is_no_network_and_no_writing_elsewhere(
    tmp_path: Path,
) -> None:
    result = await run_tests("x = 1", "pass", AMPLE)
    if result.is_offline:
        dial = "import socket; socket.create_connection(('127.0.0.1', 1), 2)"
        assert "Network is unreachable" in (await run_tests(dial, "pass", AMPLE)).reason
    if result.is_write_protected:
        os.chmod(tmp_path, 0o777)
        write = f"open({str(tmp_path / 'a')!r}, 'w')"
        assert "PermissionError" in (await run_tests(write, "pass", AMPLE)).reason
    if not (result.is_offline and result.is_write_protected):
        pytest.skip("this system has no namespaces or no Landlock for us")
