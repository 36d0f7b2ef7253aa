import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest
from real_processes import free_port

from fastchat.errors import UsageError
from fastchat.serve.launch_all_serve import (
    LaunchSettings,
    children,
    main,
    platform,
    summary,
    with_own_key,
)
from fastchat.serve.launch_all_serve import _listed_models as listed_models
from fastchat.serve.openai_api_server import GatewaySettings
from fastchat.serve.places import check_ports
from fastchat.serve.processes import PidFile, own_processes
from fastchat.settings import parse

if TYPE_CHECKING:
    from conftest import Launched


def commands(*argv: str) -> dict[str, list[str]]:
    """What the flags start: arguments after `-m fastchat.serve.` by the process's name."""
    settings = parse(LaunchSettings, argv)
    return {
        child.name: [child.command[2].removeprefix("fastchat.serve."), *child.command[3:]]
        for child in children(settings, platform(settings))
    }


def flag(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_without_arguments_the_embedded_model_is_served_on_the_documented_ports() -> None:
    started = commands()
    assert {name: command[0] for name, command in started.items()} == {
        "controller": "controller",
        "worker of vicuna-tiny": "model_worker",
        "API server": "openai_api_server",
        "page": "gradio_web_server",
    }
    ports = [flag(command, "--port") for command in started.values()]
    assert ports == ["21001", "21002", "8000", "7860"]
    for name in ("worker of vicuna-tiny", "API server"):
        assert flag(started[name], "--controller-address") == "http://localhost:21001"
    assert flag(started["page"], "--api-url") == "http://localhost:8000/v1"


def test_each_worker_registers_under_its_own_address() -> None:
    started = commands("--model-path-address", "a/b@localhost@20002", "c@127.0.0.1@20003")
    assert flag(started["worker of a/b"], "--worker-address") == "http://localhost:20002"
    assert flag(started["worker of a/b"], "--model-path") == "a/b"
    assert flag(started["worker of c"], "--worker-address") == "http://127.0.0.1:20003"
    assert flag(started["worker of c"], "--port") == "20003"


def test_a_worker_on_all_addresses_derives_its_own() -> None:
    worker = commands("--worker-host", "0.0.0.0")["worker of vicuna-tiny"]
    assert "--worker-address" not in worker


def test_flags_of_model_and_worker_reach_the_workers_only_when_given() -> None:
    assert "--device" not in commands()["worker of vicuna-tiny"]
    worker = commands(
        *("--device", "cpu", "--load-8bit", "--dtype", "bfloat16", "--model-names", "x,y"),
        *("--limit-worker-concurrency", "3", "--stream-interval", "1", "--no-register"),
    )["worker of vicuna-tiny"]
    assert flag(worker, "--device") == "cpu"
    assert flag(worker, "--dtype") == "bfloat16"
    assert flag(worker, "--model-names") == "x,y"
    assert flag(worker, "--limit-worker-concurrency") == "3"
    assert flag(worker, "--stream-interval") == "1"
    assert {"--load-8bit", "--no-register"} <= set(worker)


def test_api_keys_travel_in_the_environment_as_one_comma_list() -> None:
    settings = parse(LaunchSettings, ["--api-keys", "first,second"])
    started = children(settings, platform(settings))
    server = next(child for child in started if child.name == "API server")
    assert server.env["API_KEYS"] == "first,second"
    assert not any("first" in word for child in started for word in child.command)


def test_stored_keys_leave_the_page_a_key_of_its_own() -> None:
    settings = with_own_key(parse(LaunchSettings, ["--database-url", "keys.db"]))
    started = {child.name: child for child in children(settings, platform(settings))}
    server, page = started["API server"], started["page"]
    assert server.env["FASTCHAT_KEYS_DATABASE_URL"] == "keys.db"
    assert page.env["FASTCHAT_API_KEY"] == server.env["API_KEYS"]
    assert len(page.env["FASTCHAT_API_KEY"]) > 30
    assert with_own_key(settings) == settings
    assert with_own_key(LaunchSettings()) == LaunchSettings()


def test_the_database_of_the_arena_closes_no_api_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCHAT_DATABASE_URL", "arena.db")
    monkeypatch.delenv("FASTCHAT_KEYS_DATABASE_URL", raising=False)
    settings = parse(LaunchSettings, ["--arena"])
    assert with_own_key(settings) == settings and settings.database_url is None
    assert parse(GatewaySettings, []).database_url is None
    monkeypatch.setenv("FASTCHAT_KEYS_DATABASE_URL", "keys.db")
    assert parse(LaunchSettings, ["--arena"]).database_url == "keys.db"
    assert parse(GatewaySettings, []).database_url == "keys.db"


def test_an_endpoint_file_goes_to_the_api_server() -> None:
    started = commands("--register-api-endpoint-file", "endpoints.json")
    assert flag(started["API server"], "--register") == "endpoints.json"
    assert "endpoints.json" not in started["page"]


def test_a_shell_would_find_nothing_to_run_in_a_model_path() -> None:
    worker = commands("--model-path", "x; touch /tmp/y $(id)")["worker of x; touch /tmp/y $(id)"]
    assert flag(worker, "--model-path") == "x; touch /tmp/y $(id)"


def test_log_files_have_the_published_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGDIR", raising=False)
    settings = parse(LaunchSettings, ["--model-path-address", "a/b-c.1@localhost@20002"])
    names = [str(child.log_path) for child in children(settings, platform(settings))]
    assert names == [
        "logs/controller.log",
        "logs/worker_a_b_c_1_localhost_20002.log",
        "logs/openai_api_server.log",
        "logs/gradio_web_server.log",
    ]
    monkeypatch.setenv("LOGDIR", "elsewhere")
    settings = parse(LaunchSettings, [])
    first = children(settings, platform(settings))[0]
    assert str(first.log_path) == "elsewhere/controller.log"


@pytest.mark.parametrize("item", ["model", "model@host", "@host@1", "m@h@x", "m@h@0", "m@h@65536"])
def test_a_malformed_model_path_address_is_refused_by_name(item: str) -> None:
    with pytest.raises(UsageError, match=r"is not path@host@port"):
        platform(LaunchSettings(model_path_address=(item,)))


def test_two_processes_on_one_port_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="controller and API server both want port 5000"):
        platform(LaunchSettings(controller_port=5000, server_port=5000))


def test_a_taken_port_is_one_line_that_names_the_role_and_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ["--no-web", "--worker-port", "1", "--controller-port", port]
        assert main(flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"controller cannot listen on localhost:{port}" in lines[0]
    assert "--controller-port" in lines[0]


def test_a_host_of_another_machine_is_refused_by_name() -> None:
    settings = LaunchSettings(
        controller_port=free_port(),
        worker_port=free_port(),
        server_port=free_port(),
        server_host="203.0.113.7",
        web=False,
    )
    with pytest.raises(UsageError, match=r"API server: 203\.0\.113\.7 is no address"):
        plan = platform(settings)
        check_ports(plan.places)


def test_a_second_supervisor_in_the_same_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fastchat.serve.processes.own_processes", lambda: {os.getppid(): "launch_all_serve"}
    )
    record = {"supervisor": os.getppid(), "children": {}}
    (tmp_path / "launch_all_serve.pid").write_text(json.dumps(record))
    flags = ["--no-web", "--log-dir", str(tmp_path)]
    ports = ["--controller-port", "0", "--worker-port", "1", "--server-port", "2"]
    monkeypatch.setattr("fastchat.serve.launch_all_serve.check_ports", lambda plan: None)
    assert main([*flags, *ports]) == 2
    assert "already runs a platform from this folder" in capsys.readouterr().err


def test_the_curl_line_is_valid_and_asks_a_model_that_is_there() -> None:
    settings = LaunchSettings(api_keys=("secret",))
    text = summary(settings, platform(settings), ["m1", "m2"])
    body = text[text.index("-d '") + 4 : text.rindex("'")]
    assert json.loads(body)["model"] == "m1"
    assert "secret" not in text
    assert "http://localhost:8000/v1/chat/completions" in text
    assert "http://127.0.0.1:7860" in text


async def test_models_are_listed_where_a_worker_is_slow_to_tell_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = LaunchSettings()
    plan = platform(settings)
    told = {plan.workers[0][1].url: [[], [], ["m"]], plan.server.url: [[], [], [], ["m"]]}

    def models_of(url: str, key: str) -> list[str]:
        return told[url].pop(0)

    monkeypatch.setattr("fastchat.serve.launch_all_serve._models_of", models_of)
    assert await listed_models(settings, plan) == ["m"]


@pytest.mark.slow
def test_a_platform_answers_heals_and_ends_with_one_ctrl_c(launched: "Launched") -> None:
    lines = launched.said("Ctrl-C")
    assert f"API    {launched.urls['server']}/v1" in lines
    assert "Models echo" in lines
    client = openai.OpenAI(
        base_url=f"{launched.urls['server']}/v1", api_key="other", max_retries=0, timeout=120
    )
    assert ask(client) == "hi"
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="wrong"))

    before = launched.pids()
    os.kill(before["worker of echo:"], signal.SIGKILL)
    end = time.monotonic() + 180
    while launched.pids().get("worker of echo:") in (None, before["worker of echo:"]):
        assert time.monotonic() < end
        time.sleep(0.05)
    while True:
        try:
            assert ask(client) == "hi"
            break
        except openai.APIError:
            assert time.monotonic() < end
            time.sleep(0.1)

    pids = launched.pids()
    launched.process.send_signal(signal.SIGINT)
    out, _ = launched.process.communicate(timeout=180)
    assert launched.process.returncode == 0
    assert out.endswith("Stopping.\nAll processes have ended.\n")
    assert {*before.values(), *pids.values()} & set(own_processes()) == set()
    assert not (launched.log_dir / "launch_all_serve.pid").exists()
    names = sorted(path.name for path in launched.log_dir.iterdir())
    assert names[:2] == ["controller.log", "openai_api_server.log"]
    assert names[2].startswith("worker_echo__localhost_")


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_start_with_the_workers_own_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ports = [str(free_port()) for _ in range(3)]
    flags = ["--controller-port", ports[0], "--worker-port", ports[1], "--server-port", ports[2]]
    model = ["--model-path", "echo:nonsense=1"]
    assert main([*flags, *model, "--no-web", "--log-dir", str(tmp_path)]) == 2
    error = capfd.readouterr().err.splitlines()
    assert len(error) == 1
    assert "'nonsense=1' is no option of the echo engine" in error[0]
    assert own_processes_of(tmp_path) == []


def own_processes_of(log_dir: Path) -> list[int]:
    """Children recorded in a folder; there are none once the supervisor has ended."""
    return PidFile(log_dir / "launch_all_serve.pid").pids()


def ask(client: openai.OpenAI) -> str | None:
    answer = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "hi"}]
    )
    return answer.choices[0].message.content
