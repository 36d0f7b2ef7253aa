"""A whole local platform in its own processes: controller, worker with vicuna-tiny, gateway."""

from collections.abc import Iterator

import pytest
from real_processes import Platform, free_port, running, wait_until_answers


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    ports = [free_port() for _ in range(3)]
    controller, worker, gateway = (f"http://127.0.0.1:{port}" for port in ports)
    place = ["--host", "127.0.0.1", "--port"]
    log_path = tmp_path_factory.mktemp("platform") / "log"
    with running(
        ["fastchat.serve.controller", *place, str(ports[0])],
        ["fastchat.serve.openai_api_server", *place, str(ports[2]), "--controller", controller],
        [
            *("fastchat.serve.model_worker", *place, str(ports[1]), "--controller", controller),
            *("--model-path", "vicuna-tiny", "--device", "cpu", "--num-threads", "1"),
        ],
        log_path=log_path,
    ) as processes:
        wait_until_answers(f"{gateway}/v1/models/vicuna-tiny", processes)
        yield Platform(controller_url=controller, worker_url=worker, gateway_url=gateway)
