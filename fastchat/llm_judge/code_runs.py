"""An answer with a program in it -> whether its tests pass, in a process of its own with limits.

What the process cannot do: leave others behind, take more time, memory or disk than it is given,
read this process's environment; and, where the system has namespaces and Landlock, reach the
network, see other processes, or write outside its own folder. It can read what its user may
read; programs that mean harm belong into a machine of their own.
"""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import orjson

CELL = (Path(__file__).parent / "code_cell.py").read_text("utf-8") + "\nraise SystemExit(main())\n"
_FENCED = re.compile(r"^```[ \t]*(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
PYTHON = ("python", "py", "python3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may take."""

    seconds: float = 10.0
    memory_mb: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeResult:
    """How a program did."""

    passed: bool
    reason: str
    is_offline: bool = False
    """Whether it ran without a network."""
    is_write_protected: bool = False
    """Whether it could write below its own folder alone."""


def program_of(answer: str) -> str:
    """The program in an answer: its blocks of Python, else its first block, else all of it."""
    blocks = _FENCED.findall(answer)
    tagged = [body for tag, body in blocks if tag.lower() in PYTHON]
    if tagged:
        return "\n".join(tagged)
    return blocks[0][1] if blocks else answer


async def run_tests(program: str, tests: str, limits: Limits) -> CodeResult:
    """Runs the program, then the tests in its names; an error in either is a failure."""
    secret = secrets.token_hex(16)
    first = {
        "program": program,
        "cpu_s": max(1, round(limits.seconds)),
        "memory_bytes": limits.memory_mb << 20,
    }
    given = b"\n".join(map(orjson.dumps, [first, {"tests": tests, "secret": secret}])) + b"\n"
    with tempfile.TemporaryDirectory(prefix="fastchat-code-") as folder:
        os.chmod(folder, 0o777)
        with open(Path(folder) / ".result", "w+b") as result:
            in_time = await _run(given, folder, result.fileno(), limits.seconds)
            result.seek(0)
            told = _read(result.read())
    passed = told.get("secret") == secret
    ended = "ended early" if in_time else f"no end within {limits.seconds:g} s"
    return CodeResult(
        passed=passed,
        reason="the tests passed" if passed else str(told.get("error") or ended),
        is_offline=bool(told.get("offline")),
        is_write_protected=bool(told.get("write_protected")),
    )


async def _run(given: bytes, folder: str, output: int, seconds: float) -> bool:
    """Whether the process ended by itself in time; nothing of it is left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", CELL),
        cwd=folder,
        env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=output,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            await process.communicate(given)
        return True
    except TimeoutError:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _read(data: bytes) -> dict[str, object]:
    """What the process wrote, line after line; what is no line of ours is left out."""
    told: dict[str, object] = {}
    for line in data.splitlines():
        with contextlib.suppress(orjson.JSONDecodeError):
            value = orjson.loads(line)
            told |= value if isinstance(value, dict) else {}
    return told
