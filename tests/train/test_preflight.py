"""The plan of a training, and the account of it when it is over."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastchat.train import fit
from fastchat.train.measuring import REPORT_NAME
from fastchat.train.preflight import flops_per_token, memory_bytes
from fastchat.train.samples import SAMPLES_NAME


def write(path: Path, n: int, *, broken: int = 0) -> Path:
    records: list[dict[str, Any]] = [
        {
            "id": f"r{i}",
            "conversations": [
                {"from": "human", "value": f"Name colour {i}."},
                {"from": "gpt", "value": "red, blue and green. " * (1 + i % 3)},
            ],
        }
        for i in range(n)
    ]
    for i in range(broken):
        records[i]["conversations"][1]["value"] = " "
    path.write_text(json.dumps(records), "utf-8")
    return path


def argv_for(model: Path, tmp_path: Path, **flags: object) -> list[str]:
    given: dict[str, object] = {
        "model_name_or_path": model,
        "data_path": write(tmp_path / "data.json", 30, broken=3),
        "output_dir": tmp_path / "out",
        "max_masked_share": 0.2,
        "model_max_length": 250,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        **flags,
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def test_a_dry_run_shows_the_plan_and_trains_nothing(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"dry_run": True, "price_per_hour": 32, "device_tflops": 1e-6, "mfu": 0.5}
    assert fit.main(argv_for(tiny_llama, tmp_path, **flags), prog="train") == 0
    shown = capsys.readouterr().out
    for said in (
        "records 30, learned from 27, dropped 3; rounds 27",
        "dropped 3: empty reply",
        "padding: 0.0%",
        "2 rows a step",
        " parameters",
        "memory a device: about",
        "floating-point operations",
        "at 50% of 1e-06 TFLOPS x 1",
        "at 32 an hour",
        "⟦ red, blue",
    ):
        assert said in shown, said
    assert not list((tmp_path / "out").glob("*"))


def test_the_plan_of_unpacked_data_tells_its_padding(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit.main(argv_for(tiny_llama, tmp_path, dry_run=True, packing=False), prog="t") == 0
    shown = capsys.readouterr().out
    assert "27 conversations an epoch, 2 conversations a step, 14 steps" in shown
    assert "padding: 0.0%" not in shown


@pytest.mark.slow
def test_what_happened_stands_beside_the_plan(tiny_llama: Path, tmp_path: Path) -> None:
    flags: dict[str, object] = {"price_per_hour": 32, "eval_split": 0.2, "eval_strategy": "epoch"}
    flags |= {"eval_samples": 2, "eval_sample_tokens": 4, "report_to": "none"}
    assert fit.main(argv_for(tiny_llama, tmp_path, **flags), prog="train") == 0
    out = tmp_path / "out"
    report = json.loads((out / REPORT_NAME).read_text("utf-8"))
    assert report["data"]["dropped"] == {"empty reply": 3}
    plan, done = report["plan"], report["done"]
    assert done["tokens"] == plan["tokens"] > done["supervised_tokens"] > 0
    assert done["padding_share"] == 0
    assert done["flops"] == pytest.approx(plan["flops"])
    assert done["price"] == pytest.approx(32 * done["seconds"] / 3600, rel=0.01, abs=1e-3)
    state = json.loads((out / "trainer_state.json").read_text("utf-8"))
    remembered = state["stateful_callbacks"]["TrainingAccount"]["attributes"]
    assert remembered["data"]["n_records"] == 30
    logged = [entry for entry in state["log_history"] if "loss" in entry]
    assert logged[-1]["supervised_tokens"] == done["supervised_tokens"]
    assert all({"tokens_per_second", "padding_share"} <= set(entry) for entry in logged)
    [evaluated] = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert 0 <= evaluated["eval_token_accuracy"] <= 1
    samples = [json.loads(line) for line in (out / SAMPLES_NAME).read_text("utf-8").splitlines()]
    assert len(samples) == 2
    assert all(sample["prompt"].endswith("ASSISTANT:") for sample in samples)


@pytest.mark.slow
def test_held_out_losses_are_those_of_the_tokens_whatever_the_batches(
    tiny_llama: Path, tmp_path: Path
) -> None:
    found: list[dict[str, float]] = []
    for packing, batch in ((True, 3), (False, 5)):
        out = tmp_path / str(packing)
        flags: dict[str, object] = {
            "output_dir": out,
            "packing": packing,
            "eval_data_path": write(tmp_path / "held.json", 11),
            "per_device_eval_batch_size": batch,
            "eval_strategy": "steps",
            "eval_on_start": True,
            "eval_steps": 100,
            "max_steps": 1,
        }
        assert fit.main(argv_for(tiny_llama, tmp_path, **flags), prog="train") == 0
        state = json.loads((out / "trainer_state.json").read_text("utf-8"))
        found.append(next(e for e in state["log_history"] if "eval_loss" in e))
    for name in ("eval_loss", "eval_token_accuracy"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-5)


@pytest.mark.slow
def test_a_resumed_stream_goes_on_where_it_was(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "a.jsonl"
    records = json.loads(write(tmp_path / "data.json", 60).read_text("utf-8"))
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    common: dict[str, object] = {
        "data_path": path,
        "streaming": True,
        "shuffle_buffer": 16,
        "save_strategy": "steps",
        "save_steps": 3,
        "learning_rate": 1e-2,
        "max_steps": 12,
        "lr_scheduler_type": "constant",
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    argv = argv_for(tiny_llama, tmp_path, **{**common, "output_dir": whole})
    assert fit.main(argv, prog="train") == 0
    stopped = {**common, "output_dir": broken, "max_steps": 6}
    assert fit.main(argv_for(tiny_llama, tmp_path, **stopped), prog="train") == 0
    argv = argv_for(tiny_llama, tmp_path, **{**common, "output_dir": broken})
    assert fit.main(argv, prog="train") == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(first[name].equal(second[name]) for name in first)


def tiny(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": False,
        **changes,
    }
    return LlamaForCausalLM(LlamaConfig(**settings))


def test_operations_are_6_a_parameter_and_attention_besides() -> None:
    model = tiny()
    n = sum(p.numel() for p in model.parameters()) - 50 * 16
    assert flops_per_token(model, context=0) == 6 * n
    assert flops_per_token(model, context=100) == 6 * n + 6 * 2 * 16 * 100
    tied = tiny(tie_word_embeddings=True)
    assert flops_per_token(tied, context=0) == 6 * sum(p.numel() for p in tied.parameters())
    for parameter in model.parameters():
        parameter.requires_grad = False
    assert flops_per_token(model, context=0) == 4 * n


def test_memory_counts_weights_gradients_and_state() -> None:
    model = tiny()
    n = sum(p.numel() for p in model.parameters())

    def memory(**changes: Any) -> dict[str, float]:
        given: dict[str, Any] = {
            "n_tokens": 64,
            "learned_share": 0.5,
            "optimizer": "adamw_torch",
            "is_checkpointed": False,
            **changes,
        }
        return memory_bytes(model, **given)

    full = memory()
    assert (full["weights"], full["gradients"], full["optimizer"]) == (4 * n, 4 * n, 8 * n)
    assert memory(optimizer="adamw_bnb_8bit")["optimizer"] == 2 * n
    assert memory(is_checkpointed=True)["activations"] < full["activations"]
    assert memory(learned_share=1.0)["logits"] == 2 * full["logits"]
    assert memory(share=0.5)["weights"] == 2 * n
