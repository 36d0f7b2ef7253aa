"""Ends fastchat servers of this user, and nothing else.

    python3 -m fastchat.serve.shutdown_serve --down all

SIGTERM comes first, SIGKILL after a grace. `fastchat.serve.processes` says what counts as ours.
"""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastchat.errors import FastChatError
from fastchat.serve.processes import SERVERS, PidFile, own_processes
from fastchat.settings import run_command

Server = Literal[
    "all",
    "controller",
    "model_worker",
    "multi_model_worker",
    "openai_api_server",
    "gradio_web_server",
    "gradio_web_server_multi",
    "launch_all_serve",
]


KILL_S = 30.0
"""Within this a process is gone after SIGKILL, also on a machine that is short of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownSettings:
    """End fastchat servers of this user: ask first, then force."""

    down: Server = "all"
    """Which servers."""
    pid_file: str | None = None
    """Only processes named in this file, which launch_all_serve keeps in its log folder."""
    grace_s: float = 10.0
    """Seconds between asking and forcing."""
    debug: bool = False
    """Show tracebacks."""


def shut_down(settings: ShutdownSettings) -> int:
    """Ends what `settings` names and prints a line for each.

    Raises:
        FastChatError: a process is still there after SIGKILL.
    """
    allowed = None if settings.pid_file is None else set(PidFile(Path(settings.pid_file)).pids())
    ended = 0
    for module in SERVERS if settings.down == "all" else (settings.down,):
        pids = [
            pid
            for pid, name in own_processes().items()
            if name == module and (allowed is None or pid in allowed)
        ]
        ended += len(pids)
        _end(pids, module, grace_s=settings.grace_s)
    if not ended:
        print("No fastchat server is running." if settings.down == "all" else "None is running.")
    return 0


def _end(pids: Iterable[int], module: str, *, grace_s: float) -> None:
    """SIGTERM, a grace, SIGKILL; each time only to what is still that module."""
    live = set(pids)
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_S)):
        for pid in live:
            _send(pid, number)
        end = time.monotonic() + patience_s
        is_over = False
        while live and not is_over:
            is_over = time.monotonic() >= end  # and a last look follows, however late it is
            running = own_processes()
            for pid in sorted(pid for pid in live if running.get(pid) != module):
                how = "ended" if number == signal.SIGTERM else "was killed"
                print(f"{module} (process {pid}) {how}.", flush=True)
                live.discard(pid)
            if live and not is_over:
                time.sleep(0.05)
    if live:
        raise FastChatError(f"{module} does not end: process {', '.join(map(str, sorted(live)))}.")


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(
        ShutdownSettings, shut_down, argv, prog="python3 -m fastchat.serve.shutdown_serve"
    )


if __name__ == "__main__":
    raise SystemExit(main())
