"""Clients that run in environments of their own: litellm, LlamaIndex, llm, lm-eval, node."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client_venvs import CLIENTS, client_program
from real_processes import Platform

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("platform")]

LIMIT_S = 600
WEIGHTS = CLIENTS.parent.parent / "fastchat" / "model" / "vicuna-tiny"
WHO = "Who are you?"


def output(command: list[str | Path], *, cwd: Path | None = None, **env: str) -> str:
    """What a client prints; it must end well, and asks nobody but our platform."""
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_API_KEY": "none",
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **offline, **env},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def talk(client: str, platform: Platform) -> dict[str, Any]:
    """What `clients/CLIENT/talk.py` got from the platform."""
    python = client_program(client)
    script = CLIENTS / client / "talk.py"
    lines = output([python, script, platform.gateway_url, platform.model]).splitlines()
    return json.loads(lines[-1])


def says_who(text: str) -> bool:
    return "vicuna" in text.lower()


def test_litellm_chats_streams_calls_and_embeds(platform: Platform) -> None:
    told = talk("litellm", platform)
    for route in ("chat", "stream", "response", "messages"):
        assert says_who(told[route]), route
    assert told["side_by_side"] == [told["chat"]] * 3
    assert told["call"]["city"] in ("Rome", "Oslo")
    assert told["form"] is True
    assert told["completion"]
    assert told["embedding"] == 2
    assert told["unknown_model"] == "NotFoundError"


def test_llama_index_chats_streams_calls_and_retrieves(platform: Platform) -> None:
    told = talk("llama_index", platform)
    assert says_who(told["chat"])
    assert told["stream"] == told["chat"]
    assert told["side_by_side"] == [told["chat"]] * 3
    assert told["call"].startswith("sun in ")
    assert told["form"] is True
    assert told["completion"]
    assert told["embedding"] > 0
    assert told["retrieval"][0] == WHO


def test_node_packages_chat_stream_call_and_parse(platform: Platform) -> None:
    folder = CLIENTS / "node"
    if not shutil.which("node") or not (folder / "node_modules" / "@anthropic-ai").is_dir():
        pytest.skip("node or its packages are not installed (npm ci in tests/clients/node)")
    command: list[str | Path] = ["node", "talk.mjs", platform.gateway_url, platform.model]
    told = json.loads(output(command, cwd=folder))
    assert told["listed"] == [platform.model]
    assert told["call"]["city"] in ("Rome", "Oslo") and told["call"]["said"]
    assert told["streamedCall"]["city"] in ("Rome", "Oslo")
    assert told["form"] == told["response"]["form"] == "boolean"
    assert says_who(told["response"]["text"])
    assert told["embedding"][0] == told["embedding"][1] > 0
    assert told["file"] == "{}\n"
    assert says_who(told["anthropic"]["text"])
    assert told["anthropic"]["call"]["city"] in ("Rome", "Oslo")
    assert told["anthropic"]["why"] == "tool_use"
    assert told["unknownModel"] == "model_not_found"


MODELS_OF_LLM = """
- model_id: tiny
  model_name: vicuna-tiny
  api_base: "{url}/v1"
  can_stream: true
  supports_tools: true
  supports_schema: true
- model_id: tiny-complete
  model_name: vicuna-tiny
  api_base: "{url}/v1"
  completion: true
"""


def test_llm_talks_remembers_and_fills_a_schema(platform: Platform, tmp_path: Path) -> None:
    program = client_program("llm", "llm")
    models = MODELS_OF_LLM.format(url=platform.gateway_url)
    (tmp_path / "extra-openai-models.yaml").write_text(models)

    def llm(*words: str) -> str:
        return output([program, *words], LLM_USER_PATH=str(tmp_path))

    cool = ("-o", "temperature", "0")
    assert says_who(llm("-m", "tiny", WHO, *cool))
    assert "19" in llm("-m", "tiny", "--no-stream", "What is 12 + 7?", *cool)
    assert "24" in llm("-c", "And plus 5?", *cool)
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}},
            "required": ["colour"],
            "additionalProperties": False,
        }
    )
    found = json.loads(llm("-m", "tiny", "--schema", schema, "Which colour?"))
    assert found["colour"] in ("red", "blue")
    assert llm("-m", "tiny", "-T", "llm_time", WHO, *cool, "-o", "max_tokens", "30")
    assert llm("-m", "tiny-complete", "One, two,", "-o", "max_tokens", "4")
    (logged,) = json.loads(llm("logs", "list", "-n", "1", "--json"))
    assert logged["response"]


def lm_eval(
    platform: Platform,
    tmp_path: Path,
    *,
    model: str,
    route: str,
    task: str,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Runs one of our tasks as lm-eval's documents show; its results, and its samples."""
    program = client_program("lm_eval", "lm_eval")
    arguments = {
        "model": platform.model,
        "base_url": f"{platform.gateway_url}/v1/{route}",
        "tokenizer": WEIGHTS,
        "num_concurrent": 2,
        "max_length": 1024,
    }
    told = ",".join(f"{name}={value}" for name, value in arguments.items())
    output(
        [
            *(program, "--model", model, "--model_args", told, "--tasks", task),
            *("--include_path", "tasks", "--output_path", tmp_path, "--log_samples", *more),
        ],
        cwd=CLIENTS / "lm_eval",
        HF_HOME=str(tmp_path / "hub"),
    )
    (results,) = tmp_path.glob("*/results_*.json")
    (samples,) = tmp_path.glob(f"*/samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return {"results": json.loads(results.read_text())["results"][task], "samples": rows}


def test_lm_eval_scores_choices_by_log_likelihood(platform: Platform, tmp_path: Path) -> None:
    """What it reads off our echoed log-probabilities is what transformers computes."""
    found = lm_eval(
        platform, tmp_path, model="local-completions", route="completions", task="lists"
    )
    assert found["results"]["acc,none"] == 1
    expected = likelihoods([row["doc"] for row in found["samples"]])
    for row, values in zip(found["samples"], expected, strict=True):
        for ((value, is_greedy),), (by_transformers, is_best) in zip(
            row["resps"], values, strict=True
        ):
            # Both compute in bfloat16; float32 is 0.06 away from either.
            assert float(value) == pytest.approx(by_transformers, abs=0.1)
            assert str(is_greedy) == str(is_best)


def likelihoods(docs: list[dict[str, Any]]) -> list[list[tuple[float, bool]]]:
    """Of each choice after its question: log-probability, and whether it was the likeliest."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.bfloat16)

    def likelihood(context: str, rest: str) -> tuple[float, bool]:
        known = len(tokenizer(context, add_special_tokens=False).input_ids)
        ids = tokenizer(context + rest, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            logprobs = model(ids).logits[0, known - 1 : -1].float().log_softmax(-1)
        answer = ids[0, known:]
        value = logprobs.gather(1, answer[:, None]).sum().item()
        return value, bool((logprobs.argmax(-1) == answer).all())

    return [[likelihood(doc["question"], choice) for choice in doc["choices"]] for doc in docs]


@pytest.mark.parametrize(
    ("model", "route", "more"),
    [
        ("local-chat-completions", "chat/completions", ("--apply_chat_template",)),
        ("local-completions", "completions", ()),
    ],
)
def test_lm_eval_generates_over_both_routes(
    platform: Platform, tmp_path: Path, *, model: str, route: str, more: tuple[str, ...]
) -> None:
    found = lm_eval(platform, tmp_path, model=model, route=route, task="sums", more=more)
    answers = [row["resps"][0][0] for row in found["samples"]]
    assert len(answers) == 2 and all(answers)
    if route == "chat/completions":
        assert found["results"]["exact_match,none"] == 1
