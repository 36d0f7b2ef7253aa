"""A gateway's copy of the table of endpoints: followed from a controller, or given by hand.

Keeps its own record of who answers: an endpoint that failed ranks last and is asked for its
health every second until it answers. A controller that is gone stops nobody, and a new one,
which knows nobody yet, does not empty the table.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from fastchat.errors import FastChatError
from fastchat.serve import probe
from fastchat.serve.endpoints import Endpoint, token_for
from fastchat.serve.providers.remote import Remote
from fastchat.serve.router import Change, Listing, Router, Snapshot
from fastchat.serve.upstream import Origin, Origins
from fastchat.serve.watch import Follower

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
FIRST_LOOK_S = 1.0
"""How long a gateway that starts waits to hear whom it has, before it takes requests."""
PROBE_TIMEOUT_S = 2.0
REFRESH_EVERY_S = 30.0
REMIND_EVERY_S = 90.0


class Roster:
    """The endpoints that a gateway can choose from.

    Args:
        controller_url: whose table to follow; None follows nobody.
        endpoint_urls: endpoints that are asked for their models directly.
        remotes: models that providers serve.
        worker_token: sent to the controller's workers, and to nobody else.
    """

    def __init__(
        self,
        controller_url: str | None,
        endpoint_urls: Sequence[str] = (),
        remotes: Sequence[Remote] = (),
        *,
        worker_token: str | None = None,
    ) -> None:
        self.router = Router(expiry_s=float("inf"))  # the controller drops the silent ones
        self.origins = Origins()
        self._worker_token = worker_token
        self.has_table = False
        """A table was received at least once."""
        self._follower: Follower | None = None
        if controller_url:
            self._follower = Follower(
                controller_url, on_snapshot=self.take_snapshot, on_change=self.take_change
            )
        self._static = dict.fromkeys(endpoint_urls, 0.0)  # when each is asked next
        self._controller_id = ""
        self._inherited: dict[str, float] = {}  # from a former controller; until when
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = asyncio.Event()
        """Each endpoint given by hand has answered for the first time, or failed to."""
        self.has_table = bool(remotes) and not controller_url
        self.remotes = {remote.endpoint.name: remote for remote in remotes}
        for remote in remotes:
            self.router.register(remote.endpoint, now=time.monotonic())

    @property
    def is_connected(self) -> bool:
        """Whether the controller's stream is open, or none is wanted."""
        return not self._follower or self._follower.connected

    async def start(self) -> None:
        """Begins to follow and to check; comes back after a first look, or without it in a while,
        so that the first requests find the endpoints that are up."""
        self._tasks.append(asyncio.create_task(self._check()))
        looks = [self._asked.wait()]
        if self._follower:
            self._tasks.append(asyncio.create_task(self._follower.run()))
            looks.append(self._follower.asked.wait())
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*looks), FIRST_LOOK_S)

    async def stop(self) -> None:
        """Ends what was started."""
        tasks = [*self._tasks, *self._probes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.origins.close()
        for remote in self.remotes.values():
            remote.origin.close()

    def pick(self, model: str, *, avoid: Collection[str] = ()) -> Endpoint | None:
        """The endpoint for the next request to `model`; None when nobody is left."""
        return self.router.pick(model, now=time.monotonic(), avoid=avoid)

    def origin(self, endpoint: Endpoint) -> Origin:
        """The connections to an endpoint; a worker of ours is sent the cluster's token."""
        return self.origins.of(endpoint.name, bearer=token_for(endpoint, self._worker_token))

    # ---- what the controller says

    def take_snapshot(self, table: Snapshot, controller_id: str, expiry_s: float) -> None:
        """Replaces the table.

        A controller that is new gets one expiry of time to hear from the workers that its
        predecessor knew; until then they stay.
        """
        is_new = self.has_table and controller_id != self._controller_id
        self.has_table = True
        self._controller_id = controller_id
        for endpoint in self.router.endpoints():
            if endpoint.name in table or endpoint.name in self._static:
                continue
            if endpoint.name in self.remotes:
                continue
            if is_new:
                self._inherited.setdefault(endpoint.name, time.monotonic() + expiry_s)
            elif endpoint.name not in self._inherited:
                self.router.unregister(endpoint.name)
        for listing in table.values():
            self._take(listing)
        log.info("table received: endpoints=%d models=%s", len(table), self.router.models())

    def take_change(self, change: Change) -> None:
        """Applies one change."""
        if change.listing is not None:
            self._take(change.listing)
        else:
            self._inherited.pop(change.name, None)
            self.router.unregister(change.name)

    def _take(self, listing: Listing) -> None:
        endpoint, queue_length = listing.endpoint, listing.queue_length
        self._inherited.pop(endpoint.name, None)
        if self.router.get(endpoint.name) == endpoint:
            self.router.report_load(endpoint.name, queue_length)
        else:
            self.router.register(endpoint, now=time.monotonic(), queue_length=queue_length)

    # ---- what we see ourselves

    def suspect(self, name: str) -> None:
        """Asks an endpoint that is silent or failed for its health, unless already asked."""
        if name in self.remotes:  # nobody pays to ask how a provider is: the next request shows it
            self.router.report_success(name, now=time.monotonic())
        elif name not in self._probes:
            self._probes[name] = asyncio.create_task(self._probe(name))

    async def _probe(self, name: str) -> None:
        try:
            if await probe.is_alive(name, timeout_s=PROBE_TIMEOUT_S):
                self.router.report_success(name, now=time.monotonic())
            else:
                self.router.report_failure(name, now=time.monotonic())
        finally:
            del self._probes[name]

    async def _check(self) -> None:
        """Once a second: probes those that failed, forgets the inherited, asks the static."""
        while True:
            now = time.monotonic()
            for endpoint in self.router.failing():
                self.suspect(endpoint.name)
            for name in [name for name, until in self._inherited.items() if now > until]:
                self._end_inheritance(name)
            due = [url for url, at in self._static.items() if now >= at]
            await asyncio.gather(*(self._ask(url) for url in due))
            self._asked.set()
            self.origins.close_idle(now, {e.name for e in self.router.endpoints()})
            for remote in self.remotes.values():
                remote.origin.close_idle(now)
            await asyncio.sleep(CHECK_EVERY_S)

    def _end_inheritance(self, name: str) -> None:
        """Forgets an endpoint that the new controller never heard of.

        One that was registered by hand will not register again by itself: it stays while it
        answers.
        """
        endpoint = self.router.get(name)
        if endpoint and endpoint.check == "probe" and not self.router.has_failed(name):
            log.warning("the new controller does not know %s; register it again", name)
            self._inherited[name] = time.monotonic() + REMIND_EVERY_S
            return
        del self._inherited[name]
        self.router.unregister(name)

    async def _ask(self, url: str) -> None:
        """Reads the models of an endpoint given by hand."""
        now = time.monotonic()
        body = {"worker_name": url, "check_heart_beat": False}
        try:
            report = await probe.ask_status(body, timeout_s=PROBE_TIMEOUT_S)
        except FastChatError as error:
            if self.router.get(url) is None and self._static[url] == 0.0:
                log.warning("endpoint does not answer yet: %s: %s", url, error.message)
            self._static[url] = now + CHECK_EVERY_S
            return
        self._static[url] = now + REFRESH_EVERY_S
        self.has_table = True
        self._take(Listing(endpoint=report.endpoint, queue_length=report.queue_length))


def context_length(endpoints: Sequence[Endpoint], model: str) -> int | None:
    """The context that `model` has on every one of `endpoints`, where known."""
    known = [length for e in endpoints if (length := e.context_length(model)) is not None]
    return min(known, default=None)
