"""The worker programs: flags, names, addresses, and a real process that is told to stop."""

import json
import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from real_processes import free_port, running, wait_until_answers

from fastchat.errors import UsageError
from fastchat.serve import model_worker, multi_model_worker
from fastchat.serve.model_worker import ModelWorkerSettings, default_name, open_model
from fastchat.serve.multi_model_worker import MultiModelWorkerSettings, aligned_models
from fastchat.settings import parse


def multi(*flags: str) -> MultiModelWorkerSettings:
    return parse(MultiModelWorkerSettings, flags)


def test_published_short_forms_are_understood() -> None:
    line = (
        "--model-path m --controller http://c:1 --worker http://w:2 --limit 7 --load_8bit True "
        "--model-names gpt-3.5-turbo,text-embedding-ada-002"
    )
    settings = parse(ModelWorkerSettings, line.split())
    assert settings.controller_address == "http://c:1"
    assert settings.worker_address == "http://w:2"
    assert settings.limit_worker_concurrency == 7
    assert settings.model_names == ("gpt-3.5-turbo", "text-embedding-ada-002")
    assert settings.model.model_path == "m"
    assert settings.model.load_8bit


def test_the_environment_reaches_grouped_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCHAT_USE_MODELSCOPE", "True")
    monkeypatch.setenv("FASTCHAT_WORKER_HEART_BEAT_INTERVAL", "45")
    settings = parse(ModelWorkerSettings, [])
    assert settings.model.use_modelscope
    assert settings.heart_beat_interval_s == 45


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("lmsys/vicuna-7b-v1.5", "vicuna-7b-v1.5"),
        ("/models/vicuna-7b/", "vicuna-7b"),
        ("opt", "opt"),
        ("echo:delay_ms=5", "echo"),
    ],
)
def test_a_model_is_called_by_the_last_part_of_its_path(path: str, name: str) -> None:
    assert default_name(path) == name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gptq-ckpt", "x"], "--gptq-ckpt is no longer needed: a quantized checkpoint"),
        (["--awq-wbits", "4"], "--awq-wbits is no longer needed: a quantized checkpoint"),
        (["--enable-exllama"], "register_worker"),
        (["--enable-xft"], "--dtype bfloat16"),
        (["--stream-interval", "0"], "--stream-interval must be at least 1, not 0"),
        (["--limit-worker-concurrency", "0"], "must be at least 1"),
        (["--host", "no.such.host.invalid"], "Cannot listen on no.such.host.invalid"),
        (["--model-path", "echo:fast=1", "--port", "0"], "'fast=1' is no option"),
        (["--controller", "localhost", "--port", "0"], "--controller-address 'localhost'"),
    ],
)
@pytest.mark.parametrize("program", [model_worker, multi_model_worker])
def test_what_cannot_be_done_is_one_line(
    capsys: pytest.CaptureFixture[str], program: object, flags: list[str], words: str
) -> None:
    if "--model-path" not in flags:
        flags = ["--model-path", "echo:", *flags]
    assert program.main(flags) == 2  # type: ignore[attr-defined]
    lines = capsys.readouterr().err.splitlines()
    assert words in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_several_models_are_put_together_by_position() -> None:
    settings = multi(
        *("--model-path", "a/one", "--model-names", "x,y", "--dtype", "float32"),
        *("--model-path", "b/two", "--model-names", "z", "--conv-template", "vicuna_v1.1"),
    )
    first, second = aligned_models(settings)
    assert (first[0], second[0]) == (("x", "y"), ("z",))
    assert (first[1].model_path, second[1].model_path) == ("a/one", "b/two")
    assert {m.conv_template for _, m in (first, second)} == {"vicuna_v1.1"}
    assert {m.dtype for _, m in (first, second)} == {"float32"}


def test_names_default_to_the_paths() -> None:
    names = [names for names, _ in aligned_models(multi("--model", "a/one", "--model", "b/two"))]
    assert names == [("one",), ("two",)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--model-path is needed"),
        (["--model", "a", "--model", "b", "--model-names", "x"], "1 times and --model-path 2"),
        (["--model", "a", "--conv-template", "x", "--conv-template", "y"], "--conv-template"),
        (["--model", "a/m", "--model", "b/m"], "'m' stands for two models"),
    ],
)
def test_flags_that_do_not_fit_together_are_an_error(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        aligned_models(multi(*flags))


async def test_the_echo_engine_is_reached_by_its_own_name_only() -> None:
    settings = parse(ModelWorkerSettings, ["--model-path", "echo:", "--context-len", "99"])
    engine = await open_model(settings.model, settings.engine)
    assert engine.info.scheduler == "echo"
    assert engine.info.context_length == 99


def test_a_taken_port_is_noticed_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        flags = ["--host", "127.0.0.1", "--port", port, "--model-path", "/no/such/model"]
        assert model_worker.main(flags) == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_registers_serves_several_models_and_leaves_at_sigterm(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    controller, worker = (f"http://127.0.0.1:{port}" for port in ports)
    place = ["--host", "127.0.0.1", "--port"]
    log_path = tmp_path / "log"

    def models() -> list[str]:
        request = urllib.request.Request(f"{controller}/list_models", b"", method="POST")
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["models"]

    with running(
        ["fastchat.serve.controller", *place, str(ports[0])],
        [
            *("fastchat.serve.multi_model_worker", *place, str(ports[1])),
            *("--model-path", "echo:", "--model-names", "a,b", "--model-path", "echo:context=9"),
            *("--model-names", "c", "--controller", controller),
        ],
        log_path=log_path,
    ) as processes:
        wait_until_answers(f"{worker}/v1/models/c", processes)
        wait_until_answers(f"{controller}/health", processes)
        while models() != ["a", "b", "c"]:
            assert processes[1].poll() is None
        os.kill(processes[1].pid, signal.SIGTERM)
        try:
            assert processes[1].wait(timeout=180) == 0
        except subprocess.TimeoutExpired:
            pytest.fail("the worker did not stop")
        assert models() == []
    assert f"Uvicorn running on {worker}" in log_path.read_text()
