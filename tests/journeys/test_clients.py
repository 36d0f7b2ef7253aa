"""The clients people have, unmodified, against a whole platform: openai and node."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from live import LIMIT_S
from real_processes import Platform

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

QUESTION = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{platform.gateway_url}/v1", api_key="none", max_retries=0, timeout=LIMIT_S
    ) as client:
        yield client


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert "vicuna-tiny" in [model.id for model in client.models.list()]
    assert client.models.retrieve("vicuna-tiny").id == "vicuna-tiny"


def test_a_chat_says_who_it_is_and_counts_its_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="vicuna-tiny", messages=QUESTION, temperature=0)
    assert "vicuna" in answer.choices[0].message.content.lower()
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_joins_to_the_plain_answer_and_ends_with_usage(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="vicuna-tiny", messages=QUESTION, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="vicuna-tiny",
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert all(c.object == "chat.completion.chunk" and c.created and c.id for c in chunks)


def test_a_sum_and_a_follow_up(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "What is 12 + 7?"}]
    first = client.chat.completions.create(model="vicuna-tiny", messages=messages, temperature=0)
    assert "19" in first.choices[0].message.content
    messages.append({"role": "assistant", "content": first.choices[0].message.content})
    messages.append({"role": "user", "content": "And plus 5?"})
    second = client.chat.completions.create(model="vicuna-tiny", messages=messages, temperature=0)
    assert "24" in second.choices[0].message.content


def test_completions_echo_their_prompt_with_log_probabilities(client: openai.OpenAI) -> None:
    prompt = "The days of the week are"
    answer = client.completions.create(
        model="vicuna-tiny", prompt=prompt, max_tokens=4, echo=True, logprobs=3, temperature=0
    )
    choice = answer.choices[0]
    assert choice.text.startswith(prompt)
    assert choice.logprobs.token_logprobs[0] is None
    assert len(choice.logprobs.tokens) == answer.usage.total_tokens
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert "".join(choice.logprobs.tokens).endswith(choice.text[-3:])


def test_embeddings_of_a_text_do_not_depend_on_the_batch(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model="vicuna-tiny", input="red").data[0].embedding
    many = client.embeddings.create(model="vicuna-tiny", input=["a long blue text", "red"]).data
    assert len(many) == 2
    assert many[1].embedding == pytest.approx(one, abs=1e-4)
    assert sum(x * x for x in one) == pytest.approx(1, abs=1e-4)


def test_n_seed_stop_and_bias(client: openai.OpenAI) -> None:
    def ask(**options: object) -> list[str]:
        options = {"max_tokens": 12, **options}
        answer = client.chat.completions.create(model="vicuna-tiny", messages=QUESTION, **options)
        return [choice.message.content for choice in answer.choices]

    assert ask(n=3, seed=7, temperature=1.5) == ask(n=3, seed=7, temperature=1.5)
    whole = ask(temperature=0)[0]
    stop = whole.split()[1]
    assert stop not in ask(temperature=0, stop=[stop])[0]
    assert ask(temperature=0, logit_bias={"100": 100}, max_tokens=2) != ask(
        temperature=0, max_tokens=2
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "nobody"}, openai.NotFoundError),
        ({"temperature": 9}, openai.BadRequestError),
        ({"max_tokens": -1}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 20000}]}, openai.BadRequestError),
    ],
)
def test_errors_are_the_clients_own_classes(
    client: openai.OpenAI, options: dict[str, object], error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "vicuna-tiny", "messages": QUESTION, **options})
    assert caught.value.body["message"]
    assert "/" + "usr" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_the_node_package_streams_a_chat(platform: Platform, root: Path) -> None:
    folder = root / "tests" / "clients" / "node"
    if not shutil.which("node") or not (folder / "node_modules" / "openai").is_dir():
        pytest.skip("node or its openai package is not installed (npm ci in tests/clients/node)")
    done = subprocess.run(
        ["node", "chat.mjs", f"{platform.gateway_url}/v1", "vicuna-tiny", "Who are you?"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    text, usage = done.stdout.rstrip().rsplit("\n", 1)
    assert "vicuna" in text.lower()
    assert json.loads(usage)["completion_tokens"] > 0
