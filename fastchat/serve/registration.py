"""A worker's word to the controller: here I am, I am alive, I leave.

The worker serves whether or not the controller is there. Registration is tried with a growing
delay; after that every heart-beat asks whether the controller still knows us, so one that was
restarted gets its worker back within a beat.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from fastchat.errors import UsageError
from fastchat.settings import ServerSettings

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 4.0


class Registration:
    """Keeps one worker registered at one controller while `run` runs.

    Args:
        controller_url: address of the controller.
        describe: gives the body of `/register_worker`, with `worker_name`, `worker_status`.
        interval_s: between heart-beats.
        token: the controller's `--worker-token`, if it asks for one.
    """

    def __init__(
        self,
        controller_url: str,
        describe: Callable[[], dict[str, Any]],
        *,
        interval_s: float,
        token: str | None = None,
    ) -> None:
        self._controller_url = controller_url.rstrip("/")
        self._describe = describe
        self._interval_s = interval_s
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._problem: str | None = None
        self._has_news = asyncio.Event()

    def renew(self) -> None:
        """Registers again at once, because what `describe` gives has changed."""
        self._has_news.set()

    async def run(self) -> None:
        """Registers and beats until cancelled, and then unregisters."""
        # Proxy variables are not looked at: the controller is in the same house.
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            is_registered = is_asking = False
            delay_s = _FIRST_DELAY_S
            try:
                while True:
                    if is_registered:
                        is_registered = await self._is_due() and await self._beat(session)
                        continue
                    is_asking = True
                    is_registered = await self._register(session)
                    is_asking = False
                    if is_registered:
                        delay_s = _FIRST_DELAY_S
                    else:
                        await asyncio.sleep(delay_s)
                        delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            finally:
                if is_registered or is_asking:  # the answer may be on its way
                    await self._unregister(session)

    async def _is_due(self) -> bool:
        """True after the interval; False as soon as there is news, which a beat does not tell."""
        try:
            await asyncio.wait_for(self._has_news.wait(), self._interval_s)
        except TimeoutError:
            return True
        self._has_news.clear()
        return False

    async def _register(self, session: aiohttp.ClientSession) -> bool:
        """Whether the controller has taken us in."""
        body = self._describe()
        reply = await self._post(session, "/register_worker", body)
        if reply is None:
            return False
        log.info("registered at %s as %s", self._controller_url, body["worker_name"])
        return True

    async def _beat(self, session: aiohttp.ClientSession) -> bool:
        """Whether the controller knows us, or does not answer, which changes nothing."""
        body = self._describe()
        beat = {
            "worker_name": body["worker_name"],
            "queue_length": body["worker_status"]["queue_length"],
        }
        reply = await self._post(session, "/receive_heart_beat", beat)
        return not (isinstance(reply, dict) and reply.get("exist") is False)

    async def _unregister(self, session: aiohttp.ClientSession) -> None:
        body = {"worker_name": self._describe()["worker_name"]}
        await self._post(session, "/unregister_worker", body)

    async def _post(self, session: aiohttp.ClientSession, route: str, body: Any) -> Any:
        """The JSON reply, `True` for one that is null, or None for a failure.

        A failure is logged when it begins and when it ends, not at every try.
        """
        try:
            async with session.post(
                self._controller_url + route, json=body, allow_redirects=False
            ) as response:
                if response.status != 200:
                    text = (await response.content.read(500)).decode("utf-8", "replace")
                    self._note(f"{route} answered {response.status}: {text}")
                    return None
                reply = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._note(str(error) or type(error).__name__)
            return None
        self._note(None)
        return True if reply is None else reply

    def _note(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        if problem is None:
            log.info("the controller at %s answers", self._controller_url)
        else:
            log.warning(
                "the controller at %s does not take this worker, trying on: %s",
                self._controller_url,
                problem,
            )


def worker_address(settings: ServerSettings, *, port: int, controller_url: str) -> str:
    """The address under which others reach a server that listens as `settings` say.

    A server on all addresses is named by the one from which this machine reaches the
    controller.

    Raises:
        UsageError: `controller_url` is no http address.
    """
    parts = urlsplit(controller_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--controller-address {controller_url!r} is no address like http://localhost:21001."
        )
    host = settings.host
    if host in ("", "0.0.0.0", "::"):
        host = _address_towards(parts.hostname, parts.port or 80)
    scheme = "https" if settings.ssl else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _address_towards(host: str, port: int) -> str:
    """Our own address on the way to `host`; nothing is sent."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(address)
            own = probe.getsockname()[0]
    except OSError:
        return "localhost"
    return "localhost" if ipaddress.ip_address(own.split("%")[0]).is_loopback else own
