"""A whole local platform, started as `make run` starts it: controller, worker with vicuna-tiny,
gateway and page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_processes import Platform, free_port, running, wait_until_answers

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def run_command() -> list[str]:
    """The module and flags of `make run`, without those that its caller adds."""
    recipe = re.search(r"^run:.*\n\t(.+)$", MAKEFILE.read_text("utf-8"), re.MULTILINE)
    assert recipe is not None
    words = recipe.group(1).split()
    assert words[:2] == ["$(BIN)/python", "-m"] and words[-1] == "$(RUN_FLAGS)"
    return words[2:-1]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    ports = {name: str(free_port()) for name in ("controller", "worker", "server", "web")}
    flags = [word for name, port in ports.items() for word in (f"--{name}-port", port)]
    flags += ["--log-dir", str(folder / "logs"), "--device", "cpu", "--num-threads", "1"]
    urls = {name: f"http://localhost:{port}" for name, port in ports.items()}
    with running([*run_command(), *flags], log_path=folder / "log") as processes:
        wait_until_answers(f"{urls['server']}/v1/models/vicuna-tiny", processes)
        yield Platform(
            controller_url=urls["controller"],
            worker_url=urls["worker"],
            gateway_url=urls["server"],
        )
