"""Fixtures that every folder of tests shares."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import databases
import pytest
from hypothesis import HealthCheck, settings

# Nothing in the tests may ask a hub or report anywhere; set before any library is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, which the programs that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Drawn examples are the same in every run, and how long they take says nothing about them.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FASTCHAT_SHARED", ROOT.parent / "shared"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Clients wait for a connection as long as for a reply. By default the SDKs give it 5 s, which
    are over after a process of tests, servers and clients stood still."""
    for name in ("anthropic", "openai"):
        if (sdk := sys.modules.get(name)) is not None:
            sdk.DEFAULT_TIMEOUT.connect = 600.0


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a command sets up for its log ends with the test, as it would with its process."""
    loggers = [logging.getLogger(name) for name in (None, "fastchat", "uvicorn", "bitsandbytes")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared specifications, data and tools, where there is one."""
    if not SHARED.is_dir():
        pytest.skip("the folder of shared specifications and data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a real PostgreSQL server that this test process started."""
    yield from databases.running_postgresql()


@pytest.fixture(params=databases.KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return databases.new_database(request.getfixturevalue("postgresql_server"))
