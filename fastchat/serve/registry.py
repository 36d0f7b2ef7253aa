"""The controller's table and the tasks that keep it true: registration, polls, probes, expiry.

No routes here. Workers that beat are dropped when they fall silent; endpoints that do not beat
are probed, leave the table when they stop answering and come back when they answer. Nothing
waits on an endpoint longer than a few seconds, and no caller waits for another's endpoint.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastchat.errors import (
    BusyError,
    FastChatError,
    UnavailableError,
    UnprocessableError,
    UsageError,
)
from fastchat.serve import probe
from fastchat.serve.endpoints import (
    AddressRules,
    Endpoint,
    parse_address,
    read_check,
    read_endpoint,
    read_name,
    read_queue_length,
    token_for,
)
from fastchat.serve.patience import time_limit
from fastchat.serve.router import Router
from fastchat.serve.watch import Feed

log = logging.getLogger(__name__)

POLL_TIMEOUT_S = 5.0
PROBE_EVERY_S = 2.0
PROBE_TIMEOUT_S = 2.0
PROBE_FAILURES = 2
SILENT_S = 10.0
MAX_ENDPOINTS = 10_000
MAX_POLLS = 1000


class Registry:
    """A router's table, kept true.

    Args:
        worker_token: of the cluster, sent to workers that keep beating.
    """

    def __init__(
        self, router: Router, rules: AddressRules, *, worker_token: str | None = None
    ) -> None:
        self._worker_token = worker_token
        self.router = router
        self.rules = rules
        self.id = uuid.uuid4().hex
        """New with every start, so that workers and gateways notice a new controller."""
        self.feed = Feed(router.snapshot, controller_id=self.id, expiry_s=router.expiry_s)
        self._strikes: dict[str, int] = {}  # failed probes in a row
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._polls = asyncio.Semaphore(MAX_POLLS)  # bounds the sockets open to workers

    def start(self) -> None:
        """Begins to expire and to probe."""
        self._tasks = [asyncio.create_task(self._expire()), asyncio.create_task(self._probe())]

    async def stop(self) -> None:
        """Ends the tasks and the watch streams."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.feed.close()

    # ---- registration

    async def register(
        self, body: Mapping[str, Any], *, peer: str | None, local: str | None
    ) -> None:
        """Adds the endpoint that a registration describes, after asking it where needed.

        Raises:
            UsageError: the body, the address, or the endpoint's answer cannot be used.
            BusyError: the table is full.
        """
        name = read_name(body)
        read_check(body)
        await self.rules.check(parse_address(name), peer=peer, local=local)
        body = {**body, "worker_name": name}
        status = body.get("worker_status")
        if status is None:
            report = await self._ask(body)
        elif isinstance(status, Mapping):
            report = probe.Report(
                endpoint=read_endpoint(body, status), queue_length=read_queue_length(status)
            )
        else:
            raise UnprocessableError("'worker_status' must be an object.", param="worker_status")
        if self.router.get(name) is None:
            if len(self.router.endpoints()) >= MAX_ENDPOINTS:
                raise BusyError(f"The table is full: {MAX_ENDPOINTS} endpoints.")
            log.info("registered: worker=%s models=%s", name, list(report.endpoint.model_names))
        self._strikes.pop(name, None)
        self.router.register(report.endpoint, now=_now(), queue_length=report.queue_length)
        await self.feed.announce()

    async def unregister(self, name: str) -> bool:
        """Removes an endpoint; False when there was none."""
        self._strikes.pop(name, None)
        found = self.router.unregister(name)
        if found:
            log.info("unregistered: worker=%s", name)
            await self.feed.announce()
        return found

    async def heartbeat(self, name: str, queue_length: int) -> bool:
        """Notes a heart-beat; False asks the worker to register again."""
        exist = self.router.heartbeat(name, queue_length, now=_now())
        if exist:
            await self.feed.announce()
        return exist

    async def _ask(self, body: Mapping[str, Any]) -> probe.Report:
        try:
            async with self._polls, time_limit(POLL_TIMEOUT_S):
                token = self._worker_token if body.get("check_heart_beat") else None
                return await probe.ask_status(body, bearer=token, timeout_s=POLL_TIMEOUT_S)
        except (UnavailableError, TimeoutError):
            raise UsageError(
                f"{body['worker_name']} does not answer; start it first, or correct the address."
            ) from None

    # ---- asking all of them

    async def refresh(self) -> None:
        """Asks every endpoint for its status; those that do not answer are dropped.

        Callers at the same time share one round; the old table stays until the new one is whole.
        """
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        before = self.router.endpoints()
        reports = await self.poll(before)
        for endpoint in before:
            report = reports.get(endpoint.name)
            if self.router.get(endpoint.name) != endpoint:
                continue  # registered anew or gone meanwhile
            if report is not None:
                queue_length = report.queue_length
                self.router.register(report.endpoint, now=_now(), queue_length=queue_length)
            elif endpoint.check == "heartbeat":
                self.router.unregister(endpoint.name)
            else:
                self.router.set_down(endpoint.name)
        await self.feed.announce()

    async def poll(self, endpoints: Sequence[Endpoint]) -> dict[str, probe.Report]:
        """The reports of those that answer within five seconds, by name."""

        async def ask(endpoint: Endpoint) -> probe.Report | None:
            token = token_for(endpoint, self._worker_token)
            with contextlib.suppress(FastChatError):
                async with self._polls:
                    return await probe.refresh(endpoint, bearer=token, timeout_s=POLL_TIMEOUT_S)
            return None

        if not endpoints:
            return {}
        tasks = [asyncio.create_task(ask(endpoint)) for endpoint in endpoints]
        with contextlib.suppress(TimeoutError):
            async with time_limit(POLL_TIMEOUT_S):
                await asyncio.wait(tasks)
        done = [task for task in tasks if task.done()]
        late = [task for task in tasks if not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        reports = [task.result() for task in done]
        return {report.endpoint.name: report for report in reports if report is not None}

    # ---- what runs beside

    async def _expire(self) -> None:
        """Drops silent workers, once a second."""
        while True:
            await asyncio.sleep(min(1.0, self.router.expiry_s / 4))
            gone = self.router.expire(_now())
            if gone:
                log.warning("dropped, no heart-beat: workers=%s", gone)
                await self.feed.announce()

    async def _probe(self) -> None:
        """Asks for the health of endpoints that do not beat, and of workers that fell silent."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            silent = {e.name for e in self.router.unheard(_now(), for_s=SILENT_S)}
            asked = [
                endpoint
                for endpoint in self.router.endpoints()
                if endpoint.check == "probe"
                or (endpoint.check == "heartbeat" and endpoint.name in silent)
            ]
            await asyncio.gather(*(self._probe_one(endpoint) for endpoint in asked))

    async def _probe_one(self, endpoint: Endpoint) -> None:
        async with self._polls:
            alive = await probe.is_alive(endpoint.name, timeout_s=PROBE_TIMEOUT_S)
        name = endpoint.name
        if self.router.get(name) is None:
            return  # left meanwhile
        if alive:
            self._strikes.pop(name, None)
            if self.router.has_failed(name) and endpoint.check == "probe":
                await self._take_back(endpoint)
            self.router.report_success(name, now=_now())
            return
        self._strikes[name] = self._strikes.get(name, 0) + 1
        self.router.report_failure(name, now=_now())
        if endpoint.check == "probe" and self._strikes[name] == PROBE_FAILURES:
            log.warning("gone, will be asked again: endpoint=%s", name)
            self.router.set_down(name)
            await self.feed.announce()

    async def _take_back(self, endpoint: Endpoint) -> None:
        """Notes what an endpoint serves now that it answers again."""
        reports = await self.poll([endpoint])
        report = reports.get(endpoint.name)
        if report is None or self.router.get(endpoint.name) is None:
            return
        log.info("answers again: endpoint=%s", endpoint.name)
        self.router.register(report.endpoint, now=_now(), queue_length=report.queue_length)
        await self.feed.announce()


def _now() -> float:
    return time.monotonic()
