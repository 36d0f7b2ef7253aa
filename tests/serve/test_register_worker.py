import pytest
from fake_endpoint import FakeEndpoint
from live import serving

from fastchat.errors import UnavailableError, UsageError
from fastchat.serve.controller import ControllerSettings, create_app
from fastchat.serve.register_worker import RegisterSettings, main, register
from fastchat.settings import parse


@pytest.mark.slow
async def test_one_line_registers_any_openai_server() -> None:
    app = create_app(ControllerSettings(host="127.0.0.1", worker_token="t"))
    async with serving(app) as url, FakeEndpoint("x", "y") as endpoint:
        router = app.state.controller.router
        settings = RegisterSettings(
            controller_address=url, worker_name=endpoint.url, worker_token="t"
        )
        await register(settings)
        assert router.models() == ["x", "y"]
        assert [e.check for e in router.endpoints()] == ["probe"]
        await register(
            RegisterSettings(
                controller_address=url,
                worker_name=endpoint.url,
                worker_token="t",
                model_names=("one",),
                check_heart_beat=True,
                multimodal=True,
            )
        )
        assert router.models(multimodal=True) == ["one"]
        assert [e.check for e in router.endpoints()] == ["heartbeat"]
        with pytest.raises(UsageError, match="401"):
            await register(RegisterSettings(controller_address=url, worker_name=endpoint.url))


@pytest.mark.slow
async def test_what_cannot_be_registered_is_said() -> None:
    app = create_app(ControllerSettings(host="127.0.0.1"))
    async with serving(app) as url, FakeEndpoint("x") as endpoint:
        with pytest.raises(UsageError, match="link-local"):
            await register(
                RegisterSettings(controller_address=url, worker_name="http://169.254.169.254:80")
            )
        with pytest.raises(UsageError, match="like a controller"):
            await register(
                RegisterSettings(controller_address=endpoint.url, worker_name=endpoint.url)
            )


async def test_no_controller_is_said() -> None:
    async with FakeEndpoint("x") as endpoint:
        url = endpoint.url
    with pytest.raises(UnavailableError, match="start it first"):
        await register(RegisterSettings(controller_address=url, worker_name=url))


def test_published_flags() -> None:
    flags = ["--controller", "http://c:1", "--worker-name", "http://w:1", "--model-names", "a,b"]
    settings = parse(RegisterSettings, [*flags, "--check-heart-beat", "--multimodal"])
    assert (settings.controller_address, settings.worker_name) == ("http://c:1", "http://w:1")
    assert settings.model_names == ("a", "b")
    assert settings.check_heart_beat and settings.multimodal


@pytest.mark.parametrize("flags", [[], ["--worker-name", "localhost:1"]])
def test_mistakes_end_with_one_line_and_status_2(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert capsys.readouterr().err.count("\n") == 1
