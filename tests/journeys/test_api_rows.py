"""Rows of docs/api.md that no client's own helper reaches, over a whole platform.

What other tests show with the official packages is not repeated here.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from live import LIMIT_S
from real_processes import Platform

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

MODEL = "vicuna-tiny"
WHO: list[Any] = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{platform.gateway_url}/v1", api_key="none", max_retries=0, timeout=LIMIT_S
    ) as client:
        yield client


@pytest.fixture
def http(platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=platform.gateway_url, timeout=LIMIT_S, trust_env=False) as client:
        yield client


def said(client: openai.OpenAI, **options: Any) -> str:
    asked = {"model": MODEL, "messages": WHO, "temperature": 0, "max_tokens": 40, **options}
    return client.chat.completions.create(**asked).choices[0].message.content or ""


def test_every_role_and_kind_of_content_is_taken(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who are "}], "name": "me"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "ok"}]},
        {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
    ]
    assert said(client, messages=messages)
    finished = said(client, messages="USER: Who are you? ASSISTANT:")
    assert finished


def test_a_seed_gives_the_same_text_while_others_are_answered(client: openai.OpenAI) -> None:
    hot = {"temperature": 1.5, "seed": 5}
    one = client.chat.completions.create(model=MODEL, messages=WHO, **hot)
    again = client.chat.completions.create(model=MODEL, messages=WHO, **hot, n=1)
    assert one.choices[0].message.content == again.choices[0].message.content
    assert one.system_fingerprint == again.system_fingerprint
    wild = {"temperature": 2, "extra_body": {"ignore_eos": True}}
    assert said(client, **wild, seed=5) == said(client, **wild, seed=5)
    assert said(client, **wild, seed=5) != said(client, **wild, seed=6)


def test_stops_are_told_and_are_no_part_of_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=WHO, temperature=0, stop=["never", "small"]
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "stop" and "small" not in choice.message.content
    assert choice.model_extra["stop_reason"] == "small"


def test_penalties_and_filters_are_followed(client: openai.OpenAI) -> None:
    plain = said(client)
    assert said(client, temperature=2, extra_body={"top_k": 1}) == plain
    assert said(client, temperature=2, top_p=0) == plain
    assert said(client, temperature=2, extra_body={"min_p": 1}) == plain
    on = {"ignore_eos": True}
    free = said(client, extra_body=on)
    assert said(client, presence_penalty=2, frequency_penalty=2, extra_body=on) != free
    assert said(client, extra_body={**on, "repetition_penalty": 10}) != free
    endless = client.chat.completions.create(
        model=MODEL, messages=WHO, max_tokens=60, extra_body={"ignore_eos": True}
    )
    assert endless.usage.completion_tokens == 60


FORMS = {
    "regex": ({"regex": "[a-c]{3}"}, "[a-c]{3}"),
    "choice": ({"choice": ["left", "right"]}, "left|right"),
    "grammar": ({"grammar": 'start: "x" "y"+\n'}, "xy+"),
}


@pytest.mark.parametrize("kind", FORMS)
def test_other_servers_names_of_forms_hold(client: openai.OpenAI, kind: str) -> None:
    form, pattern = FORMS[kind]
    new = said(client, extra_body={"structured_outputs": form}, temperature=1)
    old = said(client, extra_body={f"guided_{kind}": form[kind]}, temperature=1)
    assert re.fullmatch(pattern, new) and re.fullmatch(pattern, old)
    answer = client.completions.create(
        model=MODEL, prompt="It is", max_tokens=40, extra_body={"structured_outputs": form}
    )
    assert re.fullmatch(pattern, answer.choices[0].text)


def test_any_json_object_is_one(client: openai.OpenAI) -> None:
    begun = said(client, response_format={"type": "json_object"})
    assert begun.startswith("{")


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"regex": "("}, "structured_outputs.regex"),
        ({"grammar": "start: nothing"}, "structured_outputs.grammar"),
        ({"choice": []}, "structured_outputs.choice"),
        ({"json": {"type": "no such type"}}, "structured_outputs.json"),
        ({"regex": "a", "choice": ["b"]}, "structured_outputs"),
    ],
)
def test_a_form_that_cannot_be_compiled_is_refused(
    client: openai.OpenAI, form: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, extra_body={"structured_outputs": form})
    assert caught.value.body["param"] == param
    assert len(caught.value.body["message"]) > 20


def test_prompts_of_every_kind_are_completed(client: openai.OpenAI, http: httpx.Client) -> None:
    text = "One, two, three,"
    ids = http.post("/tokenize", json={"model": MODEL, "prompt": text}).json()["tokens"]
    for prompt in (text, [text, text], ids, [ids, ids]):
        answer = client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=3, temperature=0, n=2
        )
        expected = 4 if isinstance(prompt[0], list) or prompt == [text, text] else 2
        assert [choice.index for choice in answer.choices] == list(range(expected))
        assert len({choice.text for choice in answer.choices}) == 1
    back = http.post("/detokenize", json={"model": MODEL, "tokens": ids}).json()["prompt"]
    assert text in back


def test_nothing_is_generated_to_score_a_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="One, two,", max_tokens=0, echo=True, logprobs=0
    )
    assert answer.choices[0].text == "One, two,"
    assert answer.usage.completion_tokens == 0
    assert all(value <= 0 for value in answer.choices[0].logprobs.token_logprobs[1:])


def test_the_best_of_several_is_given(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="One, two,", max_tokens=4, best_of=4, n=2, seed=1
    )
    assert len(answer.choices) == 2
    for options, param in (({"suffix": "end"}, "suffix"), ({"best_of": 1, "n": 2}, "best_of")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=MODEL, prompt="x", **options)
        assert caught.value.body["param"] == param


def test_responses_are_read_listed_cancelled_and_counted(client: openai.OpenAI) -> None:
    done = client.responses.create(model=MODEL, input="Who are you?", background=True)
    assert done.status in ("queued", "in_progress", "completed")
    items = client.responses.input_items.list(done.id)
    assert items.data[0].content[0].text == "Who are you?"
    try:
        assert client.responses.cancel(done.id).status in ("cancelled", "completed")
    except openai.BadRequestError as error:  # it was over before
        assert "completed" in str(error)
    counted = client.responses.input_tokens.count(model=MODEL, input="Who are you?")
    whole = client.responses.create(model=MODEL, input="Who are you?", store=False)
    assert counted.input_tokens == whole.usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
    ],
)
def test_what_responses_do_not_do_is_refused(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.responses.create(model=MODEL, input="x", **options)
    assert param in str(caught.value.body["param"])


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "One,", "max_tokens": 2}),
        ("/v1/embeddings", {"input": "red"}),
        ("/v1/responses", {"input": "Who are you?"}),
    ],
)
def test_batches_of_every_endpoint_are_answered(
    client: openai.OpenAI, endpoint: str, body: dict[str, Any]
) -> None:
    import time

    row = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": MODEL, **body}}
    file = client.files.create(file=("a.jsonl", json.dumps(row).encode()), purpose="batch")
    batch: Any = client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,  # type: ignore[arg-type]
        completion_window="24h",
        metadata={"of": "tests"},
    )
    end = time.monotonic() + LIMIT_S
    while batch.status not in ("completed", "failed") and time.monotonic() < end:
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch.errors
    assert batch.metadata == {"of": "tests"}
    written = json.loads(client.files.content(batch.output_file_id).text)
    assert written["response"]["status_code"] == 200


def test_texts_are_ranked_and_scored(http: httpx.Client) -> None:
    texts = ["Tell me a joke.", "Who are you?"]
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        asked = {"model": MODEL, "query": "Who are you?", "documents": texts, "top_n": 1}
        (best,) = http.post(path, json=asked).json()["results"]
        assert best["index"] == 1 and best["relevance_score"] == pytest.approx(1, abs=0.01)
    for path in ("/v1/score", "/score"):
        asked = {"model": MODEL, "text_1": "Who are you?", "text_2": texts}
        scores = [row["score"] for row in http.post(path, json=asked).json()["data"]]
        assert scores[1] == pytest.approx(1, abs=0.01) and scores[0] < scores[1]
    for name, value in {"rank_fields": ["a"], "max_chunks_per_doc": 2}.items():
        asked = {"model": MODEL, "query": "x", "documents": texts, name: value}
        refused = http.post("/v1/rerank", json=asked)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)


def test_tokens_are_counted_with_the_models_own_tokenizer(http: httpx.Client) -> None:
    plain = http.post("/tokenize", json={"model": MODEL, "messages": WHO}).json()
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    tools = http.post("/tokenize", json={"model": MODEL, "messages": WHO, "tools": [tool]}).json()
    assert 0 < plain["count"] == len(plain["tokens"]) < tools["count"]
    asked = {"prompts": [{"model": MODEL, "prompt": "Hi", "max_tokens": 5}]}
    (checked,) = http.post("/api/v1/token_check", json=asked).json()["prompts"]
    assert checked["fits"] is True and checked["contextLength"] == 1024


def test_the_document_describes_the_routes(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/messages", "/v1/responses"} <= paths.keys()
    assert "openapi" in http.get("/docs").text.lower()


def test_a_field_that_is_not_known_is_named_on_every_door(http: httpx.Client) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": WHO, "max_tokens": 1},
        "/v1/completions": {"prompt": "x", "max_tokens": 1},
        "/v1/responses": {"input": "x", "max_output_tokens": 16},
        "/v1/messages": {"messages": WHO, "max_tokens": 1},
        "/v1/embeddings": {"input": "x"},
        "/v1/rerank": {"query": "x", "documents": ["y"]},
    }
    for path, body in bodies.items():
        reply = http.post(path, json={"model": MODEL, **body, "flavour": "sweet"})
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-fastchat-ignored"] == "flavour", path
