"""Child processes kept running: started together, watched, restarted, ended as one.

It knows commands, addresses and log files, and nothing of what the children do. A child that
ends before it has ever answered is a mistake in how it was started, so it is not tried again.
One that ends later is restarted after a growing delay. A child that ended by SIGTERM, or with
status 0, was told to end and stays down.
"""

import asyncio
import contextlib
import http.client
import logging
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastchat import logs
from fastchat.errors import FastChatError, UsageError

log = logging.getLogger(__name__)

TOLD_TO_END = (0, -signal.SIGTERM)
# Addresses here are this machine's own, so no proxy of the environment may stand between.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process to keep running."""

    name: str
    """What people call it, like `controller`."""
    command: tuple[str, ...]
    health_url: str
    """Answers 2xx when the child is ready for work."""
    log_path: Path
    """Its standard output and error are appended here."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside the variables of the supervisor."""
    essential: bool = True
    """The others are of no use without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the supervisor waits before it acts, in seconds."""

    startup_s: float = 600.0
    """For the first answer of a child."""
    hung_s: float = 60.0
    """For an answer of a child that has answered before; then it is killed and restarted."""
    starting_probe_s: float = 0.1
    running_probe_s: float = 5.0
    steady_s: float = 60.0
    """A child that lived this long has recovered: its failures are forgotten."""
    delays_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Before each restart in a row; after the last the child is given up."""
    grace_s: float = 5.0
    """Between SIGTERM and SIGKILL."""


class Supervisor:
    """Runs children until `stop`, or until one that matters cannot be kept alive.

    on_ready is called with a child and the seconds it took to answer for the first time;
    on_change with the pids by name whenever a child starts or ends.
    """

    def __init__(
        self,
        children: Sequence[Child],
        patience: Patience,
        *,
        on_ready: Callable[[Child, float], None],
        on_change: Callable[[dict[str, int]], None],
    ) -> None:
        self.children = tuple(children)
        self.patience = patience
        self.on_ready = on_ready
        self.on_change = on_change
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ready: dict[str, asyncio.Event] = {}
        self.given_up: set[str] = set()

    async def start(self) -> None:
        """Starts all children at once; returns when each has answered.

        Raises:
            FastChatError: one ended or did not answer in time. The others have been ended.
        """
        self._ready = {child.name: asyncio.Event() for child in self.children}
        self._tasks = [asyncio.create_task(self._keep(child)) for child in self.children]
        ready = asyncio.create_task(self._all_ready())
        try:
            while not ready.done():
                await asyncio.wait((ready, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
                for task in self._tasks:
                    if task.done():
                        task.result()
                        raise FastChatError("A process ended by request while others started.")
        except BaseException:
            ready.cancel()
            await asyncio.gather(ready, self.stop(), return_exceptions=True)
            raise

    async def _all_ready(self) -> None:
        for event in self._ready.values():
            await event.wait()

    async def wait(self) -> None:
        """Returns when no child is left that is worth running for.

        Raises:
            FastChatError: a child that the others need could not be kept alive.
        """
        waiting = set(self._tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def stop(self) -> None:
        """Ends every child: SIGTERM to its group, SIGKILL after the grace."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        live = list(self._processes.items())
        await asyncio.gather(*(self._end(name, process) for name, process in live))

    def kill(self) -> None:
        """SIGKILL to every child's group at once, for those who will not wait."""
        for process in self._processes.values():
            _signal_group(process.pid, signal.SIGKILL)

    async def _keep(self, child: Child) -> None:
        """Starts `child` and starts it again whenever it fails."""
        failures = 0
        while True:
            began = time.monotonic()
            process = await self._spawn(child)
            reason = await self._first_answer(child, process)
            if reason is None:
                self._note_ready(child, time.monotonic() - began)
                reason = await self._watch(child, process)
            await self._end(child.name, process)
            if not self._ready[child.name].is_set():
                raise _could_not_start(child, reason, process.returncode)
            if reason == "" and process.returncode in TOLD_TO_END:
                log.info("ended by request, not restarted process=%s", child.name)
                return
            if time.monotonic() - began > self.patience.steady_s:
                failures = 0
            if failures == len(self.patience.delays_s):
                message = (
                    f"{child.name} failed {failures + 1} times in a row and is given up; "
                    f"see {child.log_path}."
                )
                if child.essential:
                    raise FastChatError(message)
                log.error(message)
                self.given_up.add(child.name)
                return
            delay = self.patience.delays_s[failures]
            failures += 1
            log.warning(
                "%s, restarting process=%s status=%s delay_s=%g",
                reason or "ended",
                child.name,
                process.returncode,
                delay,
            )
            await asyncio.sleep(delay)

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        """Starts the child in a process group of its own, so that Ctrl-C reaches us alone."""
        with open(child.log_path, "ab", opener=logs.private) as sink:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **child.env},
                process_group=0,
            )
        self._processes[child.name] = process
        self._tell_change()
        return process

    async def _first_answer(self, child: Child, process: asyncio.subprocess.Process) -> str | None:
        """None once the child answers, else why it never will: "" when it ended by itself."""
        end = time.monotonic() + self.patience.startup_s
        while process.returncode is None:
            if await asyncio.to_thread(answers, child.health_url) is not None:
                return None
            if time.monotonic() > end:
                return f"gave no answer within {self.patience.startup_s:g} s"
            await self._pause(process, self.patience.starting_probe_s)
        return ""

    async def _watch(self, child: Child, process: asyncio.subprocess.Process) -> str:
        """Returns when the child has ended ("") or hangs (what was seen)."""
        heard = time.monotonic()
        while process.returncode is None:
            await self._pause(process, self.patience.running_probe_s)
            if await asyncio.to_thread(answers, child.health_url) is not None:
                heard = time.monotonic()
            elif time.monotonic() - heard > self.patience.hung_s:
                return f"no answer for {self.patience.hung_s:g} s"
        return ""

    async def _pause(self, process: asyncio.subprocess.Process, seconds: float) -> None:
        """Waits, but no longer than the process lives."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)

    async def _end(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Ends the process with all it has started; harmless when it has gone already."""
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            await self._pause(process, self.patience.grace_s)
        # What the child started may have outlived it, so the group is always swept.
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        if self._processes.get(name) is process:
            del self._processes[name]
            self._tell_change()

    def _note_ready(self, child: Child, seconds: float) -> None:
        if self._ready[child.name].is_set():
            log.info("answers again process=%s", child.name)
        else:
            self._ready[child.name].set()
            self.on_ready(child, seconds)

    def _tell_change(self) -> None:
        self.on_change({name: process.pid for name, process in self._processes.items()})


def answers(url: str, *, key: str = "", timeout_s: float = 2.0) -> bytes | None:
    """The body of a GET when the reply is 2xx, else None.

    Args:
        key: sent as a bearer token when it is not empty.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with _opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as reply:
            return reply.read()
    except (OSError, http.client.HTTPException):
        return None  # URLError and HTTPError are OSErrors.


def last_line(path: Path) -> str:
    """The last line of a log that holds something, for a message."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _could_not_start(child: Child, reason: str | None, status: int | None) -> FastChatError:
    """The error for a child that ended before it had ever answered."""
    what = reason or f"ended with status {status} before it answered"
    said = last_line(child.log_path)
    message = f"{child.name} {what}" + (f": {said}" if said else "") + f" (log: {child.log_path})"
    return UsageError(message) if status == 2 else FastChatError(message)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
