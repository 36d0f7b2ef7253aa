"""The published endpoint file."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError, UsageError
from fastchat.serve.providers.endpoint_file import Entry, read_endpoint_file
from fastchat.serve.providers.kinds import kinds

PUBLISHED = [
    *("openai", "openai_no_stream", "openai_o1", "openai_assistant", "anthropic"),
    *("anthropic_message", "anthropic_message_vertex", "gemini", "gemini_no_stream", "bard"),
    *("mistral", "nvidia", "ai2", "vertex", "yandexgpt", "cohere", "reka", "column", "metagen"),
    "p2l",
]
GOOD = {"model_name": "gpt-x", "api_type": "openai", "api_key": "k", "anony_only": False}


def read(tmp_path: Path, value: Any, **environ: str) -> list[Entry]:
    path = tmp_path / "endpoints.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_endpoint_file(path, environ)


def one(tmp_path: Path, environ: dict[str, str] | None = None, **fields: Any) -> Entry:
    (entry,) = read(tmp_path, {"x": GOOD | fields}, **(environ or {}))
    return entry


def test_every_published_type_is_known() -> None:
    assert set(PUBLISHED) <= set(kinds())
    for kind in kinds().values():
        assert kind.retired or kind.wire in ("openai", "anthropic", "gemini", "cohere")
        assert kind.base_url.startswith(("https://", "")) and "{key}" in kind.key_form


@pytest.mark.parametrize("api_type", [name for name in PUBLISHED if not kinds()[name].retired])
def test_a_type_can_be_used_with_its_variables(tmp_path: Path, api_type: str) -> None:
    kind = kinds()[api_type]
    environ = {"GCP_PROJECT_ID": "p", "GCP_LOCATION": "europe-west4"}
    if kind.key_variable:
        environ[kind.key_variable] = "secret"
    base = {} if kind.base_url else {"api_base": "https://example.org/v1"}
    entry = one(tmp_path, environ, api_type=api_type, api_key="", folder_id="f", **base)
    assert entry.key == ("secret" if kind.key_variable else "")
    assert "{" not in entry.base_url
    assert "secret" not in repr(entry)


@pytest.mark.parametrize("api_type", [name for name in PUBLISHED if kinds()[name].retired])
def test_a_retired_type_is_told_at_the_start_and_left_out(
    tmp_path: Path, api_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    value = {"old": GOOD | {"api_type": api_type}, "good": GOOD}
    with caplog.at_level(logging.WARNING):
        assert [entry.name for entry in read(tmp_path, value)] == ["good"]
    assert "'old'" in caplog.text and "use " in caplog.text
    with pytest.raises(UsageError):
        read(tmp_path, {"old": GOOD | {"api_type": api_type}})


def test_keys_come_from_the_file_or_the_environment(tmp_path: Path) -> None:
    environ = {"MY_KEY": "a", "OPENAI_API_KEY": "b"}
    assert one(tmp_path, environ, api_key="literal").key == "literal"
    assert one(tmp_path, environ, api_key="env:MY_KEY").key == "a"
    assert one(tmp_path, environ, api_key="MY_KEY").key == "a"
    assert one(tmp_path, environ, api_key="").key == "b"
    assert one(tmp_path, environ, api_key=None).key == "b"
    base = "https://api.openai.com/v1/"
    assert one(tmp_path, environ, api_key="", api_base=base).key == "b"


def test_a_providers_key_is_not_sent_to_other_servers(tmp_path: Path) -> None:
    environ = {"OPENAI_API_KEY": "b"}
    assert one(tmp_path, environ, api_key="", api_base="http://localhost:8080/v1").key == ""


@pytest.mark.parametrize("key", ["", "env:NO_SUCH"])
def test_a_model_without_its_key_is_left_out_and_told(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    value = {"poor": GOOD | {"api_key": key}, "good": GOOD}
    assert [entry.name for entry in read(tmp_path, value)] == ["good"]
    assert "'poor' has no key: set the environment variable" in caplog.text


def test_defaults_are_those_published(tmp_path: Path) -> None:
    entry = one(tmp_path)
    assert (entry.base_url, entry.timeout_s) == ("https://api.openai.com/v1", 180.0)
    assert entry.text_arena and not entry.vision_arena and not entry.anony_only
    assert entry.model == "gpt-x" and entry.recommended_config == {}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"x": 3}',
        {"": GOOD},
        {"a\nb": GOOD},
        {"x" * 300: GOOD},
        {"x": GOOD | {"api_type": "nobody"}},
        {"x": {"model_name": "m"}},
        {"x": GOOD | {"api_type": 3}},
        {"x": GOOD | {"anony_only": "yes"}},
        {"x": GOOD | {"text-arena": 1}},
        {"x": GOOD | {"recommended_config": []}},
        {"x": GOOD | {"timeout": 0}},
        {"x": GOOD | {"max_retries": -1}},
        {"x": GOOD | {"concurrency": True}},
        {"x": GOOD | {"surprise": 1}},
        {"x": GOOD | {"api_type": "p2l"}},
    ],
)
def test_what_is_no_endpoint_file_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, value)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "base",
    ["file:///etc/passwd", "gopher://h", "http://u:p@h/v1", "http://h/v1?x=1", "http://a\\@b/"],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(DataError, match="api_base"):
        read(tmp_path, {"x": GOOD | {"api_base": base}})


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_endpoint_file(tmp_path / "none.json", {})
