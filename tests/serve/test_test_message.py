import pytest
from fake_endpoint import FakeEndpoint
from live import serving

from fastchat.errors import FastChatError, UnavailableError, UsageError
from fastchat.serve import test_message as tester
from fastchat.serve.controller import ControllerSettings, create_app
from fastchat.serve.test_message import MessageSettings, find_worker, main, stream_answer
from fastchat.settings import parse


async def pieces(settings: MessageSettings) -> list[str]:
    models, worker = await find_worker(settings)
    model = settings.model_name or models[0]
    return [piece async for piece in stream_answer(settings, worker, model=model) if piece]


@pytest.mark.slow
async def test_the_controllers_first_model_answers() -> None:
    app = create_app(ControllerSettings(host="127.0.0.1"))
    async with serving(app) as url, FakeEndpoint("m") as endpoint:
        settings = MessageSettings(controller_address=url)
        with pytest.raises(UnavailableError, match="knows no worker"):
            await find_worker(settings)
        body = {"worker_name": endpoint.url, "check_heart_beat": False}
        await app.state.controller.registry.register(body, peer=None, local=None)
        assert await find_worker(settings) == (["m"], endpoint.url)
        assert await pieces(settings) == ["a "] * 5
        with pytest.raises(UsageError, match="'none'"):
            await find_worker(MessageSettings(controller_address=url, model_name="none"))


@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
async def test_a_server_can_be_asked_directly(suffix: str) -> None:
    async with FakeEndpoint("m") as endpoint:
        settings = MessageSettings(worker_address=endpoint.url + suffix, api_key="k")
        assert await pieces(settings) == ["a "] * 5
        assert "authorization: bearer k\r\n" in endpoint.heads[-1].lower()


@pytest.mark.parametrize("mode", ["break_first", "break_middle", "garbage", "busy"])
async def test_a_failed_answer_is_an_error(mode: str) -> None:
    async with FakeEndpoint("m") as endpoint:
        endpoint.mode = mode
        with pytest.raises(FastChatError):
            await pieces(MessageSettings(worker_address=endpoint.url))


async def test_silence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tester, "QUIET_S", 0.2)
    async with FakeEndpoint("m") as endpoint:
        endpoint.mode = "silent"
        with pytest.raises(UnavailableError, match=r"0\.2 s"):
            await pieces(MessageSettings(worker_address=endpoint.url))


def test_nobody_there_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--controller", "http://127.0.0.1:1"]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "127.0.0.1:1" in shown.err


def test_published_flags() -> None:
    settings = parse(MessageSettings, ["--model-name", "vicuna-7b-v1.5"])
    assert settings.model_name == "vicuna-7b-v1.5"
    assert settings.controller_address == "http://localhost:21001"
    assert (settings.temperature, settings.max_new_tokens) == (0.0, 32)
    settings = parse(MessageSettings, ["--worker", "http://w:1", "--message", "hi"])
    assert (settings.worker_address, settings.message) == ("http://w:1", "hi")
