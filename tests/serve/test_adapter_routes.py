"""Adapters as model names of a worker: by flags, and loaded and unloaded while it runs."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from in_process import serving

from fastchat.engine.adapted import AdaptedEngine
from fastchat.engine.choose import EngineSettings
from fastchat.errors import UsageError
from fastchat.model.load import ModelSettings
from fastchat.serve.adapter_routes import AdapterRoutes
from fastchat.serve.model_worker import ModelWorkerSettings, open_adapters, open_model
from fastchat.serve.multi_model_worker import MultiModelWorkerSettings
from fastchat.serve.worker import Worker
from fastchat.serve.worker_settings import WorkerSettings
from fastchat.settings import parse
from tests.engine.adapters_on_disk import make_adapter
from tests.engine.conftest import model_folder  # noqa: F401  # a fixture

MESSAGES: list[Any] = [{"role": "user", "content": "hello there"}]
ENGINE = EngineSettings(max_cached_tokens=1024)
DAMAGED: dict[str, dict[str, Any]] = {
    "overflowing": {"lora_alpha": 1e308},
    "rankless": {"r": 0},
    "dora": {"use_dora": True},
}


def settings_of(path: Path | str) -> ModelSettings:
    return ModelSettings(model_path=str(path), dtype="float32", num_threads=1, device="cpu")


@pytest.fixture(scope="module")
def base(model_folder: Callable[[str], Path]) -> Path:  # noqa: F811
    return model_folder("llama")


@pytest.fixture(scope="module")
def shelf(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters, one of another base, and a link to the outside."""
    root = tmp_path_factory.mktemp("shelf")
    for i, name in enumerate(("one", "two-peft")):
        make_adapter(base, root / name, seed=i)
    other = make_adapter(base, root / "other", seed=5)
    config = json.loads((other / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "org/another-7b"
    (other / "adapter_config.json").write_text(json.dumps(config))
    outside = tmp_path_factory.mktemp("outside")
    make_adapter(base, outside / "hidden", seed=6)
    (root / "link").symlink_to(outside / "hidden")
    for name, fields in DAMAGED.items():
        damaged = make_adapter(base, root / name, seed=7)
        config = json.loads((damaged / "adapter_config.json").read_text()) | fields
        (damaged / "adapter_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
async def worker(base: Path, shelf: Path) -> AsyncIterator[Worker]:
    engine = await open_model(settings_of(base), ENGINE)
    found = await open_adapters(engine, [f"one={shelf / 'one'}"], taken=["base"])
    routes = AdapterRoutes(str(shelf))
    made = Worker(
        {"base": engine, **found}, WorkerSettings(no_register=True), extra_routes=routes.routes
    )
    yield made
    await made.stop()


async def post(url: str, route: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url + route, json=body) as reply:
        text = await reply.text()
        is_json = "json" in reply.headers["content-type"]
        return reply.status, json.loads(text) if is_json else text


async def said(client: openai.AsyncOpenAI, model: str) -> str:
    reply = await client.chat.completions.create(
        model=model, messages=MESSAGES, temperature=0, max_tokens=24
    )
    assert reply.model == model
    return reply.choices[0].message.content or ""


@pytest.mark.slow
async def test_adapters_are_models_that_come_and_go(worker: Worker) -> None:
    changes: list[list[str]] = []
    worker.on_change = lambda: changes.append(worker.status()["model_names"])
    async with serving(worker.app) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        names = [model.id async for model in client.models.list()]
        assert names == ["base", "one"]
        body = {"lora_name": "two", "lora_path": "two-peft"}
        status, text = await post(url, "/v1/load_lora_adapter", body)
        assert (status, text) == (200, "Success: LoRA adapter 'two' added successfully.")
        answers = [await said(client, name) for name in ("base", "one", "two")]
        assert len(set(answers)) == 3
        vector = await client.embeddings.create(model="two", input="text")
        assert len(vector.data[0].embedding) == 32
        status, reply = await post(url, "/v1/load_lora_adapter", body)
        assert (status, reply["error"]["param"]) == (400, "lora_name")
        status, text = await post(url, "/v1/unload_lora_adapter", {"lora_name": "two"})
        assert (status, text) == (200, "Success: LoRA adapter 'two' removed successfully.")
        with pytest.raises(openai.NotFoundError):
            await said(client, "two")
        assert [await said(client, name) for name in ("base", "one")] == answers[:2]
        await client.close()
    assert changes == [["base", "one", "two"], ["base", "one"]]
    assert worker.admission.limit == ENGINE.max_running


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"lora_path": "one"}, "lora_name", "required"),
        ({"lora_name": "x"}, "lora_path", "required"),
        ({"lora_name": "base", "lora_path": "one"}, "lora_name", "taken"),
        ({"lora_name": "a\nb", "lora_path": "one"}, "lora_name", "printable"),
        ({"lora_name": "x", "lora_path": "other"}, "lora_path", "trained on 'another-7b'"),
        ({"lora_name": "x", "lora_path": "overflowing"}, "lora_path", "scaled by its lora_alpha"),
        ({"lora_name": "x", "lora_path": "rankless"}, "lora_path", "the rank 0"),
        ({"lora_name": "x", "lora_path": "dora"}, "lora_path", "it is a DoRA adapter"),
        ({"lora_name": "x", "lora_path": "nowhere"}, "lora_path", "no folder within"),
        ({"lora_name": "x", "lora_path": "../outside0/hidden"}, "lora_path", "no folder within"),
        ({"lora_name": "x", "lora_path": "link"}, "lora_path", "no folder within"),
        ({"lora_name": "x", "lora_path": "/etc"}, "lora_path", "no folder within"),
        ({"lora_name": "x", "lora_path": "a\0b"}, "lora_path", "no folder within"),
        ({"lora_name": "x", "lora_path": "."}, "lora_path", "no folder within"),
        ({"lora_name": "x", "lora_path": "one", "model": 3}, "model", "must be a text"),
        (
            {"lora_name": "x", "lora_path": "one", "load_inplace": True},
            "load_inplace",
            "not supported",
        ),
    ],
)
async def test_what_cannot_be_loaded_is_a_400_that_names_the_field(
    worker: Worker, body: dict[str, Any], param: str, words: str
) -> None:
    async with serving(worker.app) as url:
        status, reply = await post(url, "/v1/load_lora_adapter", body)
    assert (status, reply["error"]["param"]) == (400, param)
    assert words in reply["error"]["message"]
    assert "/tmp" not in json.dumps(reply)
    assert list(worker.engines) == ["base", "one"]


@pytest.mark.slow
async def test_only_adapters_can_be_unloaded(worker: Worker) -> None:
    async with serving(worker.app) as url:
        for name in ("base", "nobody"):
            status, _ = await post(url, "/v1/unload_lora_adapter", {"lora_name": name})
            assert status == 404
    assert "base" in worker.engines


@pytest.mark.slow
async def test_without_the_flag_nothing_is_loaded_or_unloaded(worker: Worker) -> None:
    closed = Worker(
        worker.engines, WorkerSettings(no_register=True), extra_routes=AdapterRoutes(None).routes
    )
    async with serving(closed.app) as url:
        for route in ("load", "unload"):
            body = {"lora_name": "one", "lora_path": "one"}
            status, reply = await post(url, f"/v1/{route}_lora_adapter", body)
            assert status == 403
            assert "--allow-lora-from" in reply["error"]["message"]
    assert "one" in closed.engines


def test_a_folder_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(UsageError, match="--allow-lora-from"):
        AdapterRoutes("/no/such/folder")


async def test_engines_that_mix_none_say_so(base: Path, shelf: Path) -> None:
    engine = await open_model(settings_of(base), EngineSettings(scheduler="groups"))
    try:
        with pytest.raises(UsageError, match="apply_lora"):
            await open_adapters(engine, [f"one={shelf / 'one'}"], taken=())
    finally:
        await engine.stop(0)


@pytest.mark.parametrize("pair", ["one", "=x", "one=", "base=x", "=", " = "])
async def test_pairs_that_are_none_are_refused(pair: str) -> None:
    engine: Any = await open_model(settings_of("echo:"), ENGINE)
    with pytest.raises(UsageError, match="--lora"):
        await open_adapters(engine, [pair], taken=["base"])


def test_the_flags_are_read() -> None:
    line = "--model-path m --lora a=x --lora b=y --allow-lora-from f --max-loras 3"
    settings = parse(ModelWorkerSettings, line.split())
    assert settings.lora == ("a=x", "b=y")
    assert settings.allow_lora_from == "f"
    assert settings.engine.max_loras == 3


async def test_a_path_with_an_adapter_serves_it_over_its_base(base: Path, shelf: Path) -> None:
    engine = await open_model(settings_of(shelf / "two-peft"), ENGINE)
    assert isinstance(engine, AdaptedEngine)
    assert engine.info.model_path.endswith("two-peft")
    assert engine.base.info.model_path == str(base)
    await engine.stop(0)


@pytest.mark.slow
async def test_a_shared_base_is_loaded_once_and_served_too(
    base: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFT_SHARE_BASE_WEIGHTS", "true")
    assert parse(MultiModelWorkerSettings, ["--model-path", "m"]).share_base_weights
    shared: dict[str, Any] = {}
    paths = (shelf / "one", base, shelf / "two-peft")
    one, below, two = [await open_model(settings_of(p), ENGINE, shared=shared) for p in paths]
    assert isinstance(one, AdaptedEngine) and isinstance(two, AdaptedEngine)
    assert one.base is two.base is below
    worker = Worker({"one": one, "base": below, "two": two}, WorkerSettings(no_register=True))
    async with serving(worker.app) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        assert len({await said(client, name) for name in ("one", "base", "two")}) == 3
        await client.close()
    await worker.stop()
    alone = await open_model(settings_of(shelf / "one"), ENGINE)
    assert isinstance(alone, AdaptedEngine) and alone.base is not below
    await alone.stop(0)
