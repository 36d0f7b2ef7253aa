"""The store of keys under kill -9: of gateways that use keys, and of commands that make them."""

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from fake_endpoint import FakeEndpoint
from live import until
from real_processes import free_port

from fastchat.serve import keys as keys_command
from fastchat.store.database import Database
from fastchat.store.keys import KeyStore, digest_of
from fastchat.store.usage import UsageStore

ROUNDS = 4
KEYS_A_ROUND = 6
CALLERS = 8
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

MAKER = """
import itertools, sys
from fastchat.serve import keys
for i in itertools.count():
    keys.main(["create", "--name", f"{sys.argv[2]}-{i}", "--database-url", sys.argv[1]])
"""
"""The command, again and again; what it prints has been promised to somebody."""


def started(*words: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    env = {**os.environ, "LOGDIR": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=stderr)


class Site:
    """A gateway that is killed and started again, and those who ask it all the while."""

    def __init__(self, database_url: str, endpoint_url: str, session: aiohttp.ClientSession):
        self.database_url = database_url
        self._endpoint_url = endpoint_url
        self._session = session
        self._url = ""
        self.seen: Counter[int] = Counter()
        """Statuses of all replies to keys that exist."""

    @contextlib.asynccontextmanager
    async def running(self, known: list[str]) -> AsyncIterator[None]:
        """A gateway that is asked with `known` from before it listens until it is killed."""
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        flags = ["--host", "127.0.0.1", "--port", str(port), "--endpoint", self._endpoint_url]
        flags += ["--database-url", self.database_url]
        process = started("-m", "fastchat.serve.openai_api_server", *flags)
        asking = [asyncio.create_task(self._ask_on(known[i::CALLERS])) for i in range(CALLERS)]
        before = self.seen[200]
        try:
            await until(lambda: self.seen[200] >= before + 10 * CALLERS or process.poll())
            assert process.poll() is None, "the gateway ended"
            yield
        finally:
            process.kill()
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            process.communicate()

    async def chat(self, key: str) -> int:
        """The status of one chat, once the gateway knows its endpoint."""
        status = 503
        while status == 503:
            async with self._session.post(
                f"{self._url}/v1/chat/completions", json=CHAT, headers=_bearer(key)
            ) as reply:
                status = reply.status
        return status

    async def _ask_on(self, known: list[str]) -> None:
        for key in itertools.cycle(known):
            with contextlib.suppress(aiohttp.ClientError):
                async with self._session.get(
                    f"{self._url}/v1/models", headers=_bearer(key)
                ) as reply:
                    self.seen[reply.status] += 1
            await asyncio.sleep(0.01)  # the machine is needed for what is asked


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class Maker:
    """The command that makes keys, until it is killed."""

    def __init__(self, database_url: str, name: str) -> None:
        self._process = started("-c", MAKER, database_url, name, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self._out = self._process.stdout

    async def told(self) -> str:
        """The next key that it tells."""
        line = await asyncio.to_thread(self._out.readline)
        assert line.endswith(b"\n"), "the command ended"
        return line.decode().strip()

    def kill(self) -> list[str]:
        """The keys that it had told beyond those that were taken."""
        self._process.kill()
        rest = self._out.read()
        self._process.wait()
        self._out.close()
        return [line.decode().strip() for line in rest.splitlines(True) if line.endswith(b"\n")]


@pytest.mark.slow
async def test_no_key_is_lost_or_refused_through_many_kills(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(database_url)
    store, usage = KeyStore(database), UsageStore(database)
    known = [store.create(f"first-{i}", now=1.0)[1] for i in range(CALLERS)]
    n_chats = 0

    def used() -> int:
        return sum(one.requests for _, one in usage.since(0))

    async with FakeEndpoint("m") as endpoint, aiohttp.ClientSession() as session:
        endpoint.usage = USAGE
        site = Site(database_url, endpoint.url, session)
        for n in range(ROUNDS):
            before = used()
            maker = Maker(database_url, f"round-{n}")
            async with site.running(list(known)):
                for _ in range(KEYS_A_ROUND):
                    known.append(key := await maker.told())
                    assert await site.chat(key) == 200  # at once, as the documents say
                    n_chats += 1
                if n % 2:  # what the gateway has written stays; in the other rounds it may lose it
                    await until(lambda before=before: used() == before + KEYS_A_ROUND)
            known += maker.kill()
            assert before <= used() <= n_chats
        assert {key for key in known if store.with_digest(digest_of(key.encode())) is None} == set()

        revoked = known.pop()
        key_id = store.find(revoked[:9]).id
        assert keys_command.main(["revoke", key_id, "--database-url", database_url]) == 0
        capsys.readouterr()
        async with site.running(known):
            assert await site.chat(revoked) == 401
            for key in known:
                assert await site.chat(key) == 200
    assert set(site.seen) == {200}, site.seen
    if database.is_sqlite:
        sound = database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one())
        assert sound == "ok"
    database.close()


@pytest.mark.slow
def test_a_killed_command_leaves_no_half_of_a_key(database_url: str, tmp_path: Path) -> None:
    """Whenever it dies, a key is there with all of its limits, or not at all."""
    makers = [Maker(database_url, f"maker-{i}") for i in range(2)]
    told = [line for maker in makers for line in [asyncio.run(maker.told())]]
    told += [line for maker in makers for line in maker.kill()]
    database = Database(database_url)
    store = KeyStore(database)
    stored = store.all()
    assert len(stored) >= len(told)
    assert all(key.name.startswith("maker-") and key.prefix.startswith("fc-") for key in stored)
    for text in told:
        assert store.with_digest(digest_of(text.encode())) in stored
    new, _ = store.create("after", now=2.0)  # no lock is left behind
    assert store.find("after") == new
    database.close()
