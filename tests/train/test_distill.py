"""Distillation: the formulas against sums by hand, and a student that comes nearer."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import DataError, UsageError
from fastchat.train import fit
from fastchat.train.presets import TRAIN_DISTILL

Argv = Callable[..., list[str]]


def softmax(row: list[float], temperature: float) -> list[float]:
    exponents = [math.exp(x / temperature) for x in row]
    return [x / sum(exponents) for x in exponents]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


STUDENT = [[0.2, -1.0, 0.5], [1.0, 0.0, -2.0]]
TEACHER = [[1.5, 0.1, -0.3], [0.0, 0.7, 0.2]]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_the_output_loss_is_the_sum_by_hand(divergence: Any, temperature: float) -> None:
    import torch

    from fastchat.train.distill import output_loss

    expected = 0.0
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        q, p = softmax(student, temperature), softmax(teacher, temperature)
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        expected += {
            "forward": kl(p, q),
            "reverse": kl(q, p),
            "jsd": (kl(p, middle) + kl(q, middle)) / 2,
        }[divergence]
    found = output_loss(
        torch.tensor(STUDENT),
        torch.tensor(TEACHER),
        temperature=temperature,
        divergence=divergence,
    )
    assert float(found) == pytest.approx(temperature**2 * expected, rel=1e-5)


def test_the_activation_loss_is_the_sum_by_hand() -> None:
    import torch
    from torch import nn

    from fastchat.train.distill import activation_loss

    student = [torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])]
    teacher = [torch.tensor([[0.0, 2.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.5], [1.0, 2.0]])]
    project = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        project.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    # First layer as it is: ((1 + 0) + (0 + 4)) / 2; second projected: (0 + 0 + 1 + 4) / 2.
    found = activation_loss(student, teacher, [None, project])
    assert found.item() == pytest.approx((2.5 + 2.5) / 2)


def test_layers_are_spread_evenly_or_as_asked() -> None:
    from fastchat.train.distill import layer_map

    assert layer_map(None, n_student=2, n_teacher=4) == [(0, 1), (1, 3)]
    assert layer_map(None, n_student=3, n_teacher=3) == [(0, 0), (1, 1), (2, 2)]
    assert layer_map("1:3,0:0", n_student=2, n_teacher=4) == [(1, 3), (0, 0)]
    with pytest.raises(UsageError, match="no list of"):
        layer_map("0-1", n_student=2, n_teacher=4)
    with pytest.raises(UsageError, match="the teacher 0 to 3"):
        layer_map("0:4", n_student=2, n_teacher=4)


def test_what_the_cache_keeps_gives_the_full_divergence_or_less(tmp_path: Path) -> None:
    import torch

    from fastchat.train.distill import kept_output_loss, output_loss
    from fastchat.train.teacher_cache import TeacherCache

    torch.manual_seed(0)
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    }
    supervised = torch.tensor([[False, True, False], [True, True, True]])
    student, teacher = torch.randn(4, 20), torch.randn(4, 20) * 3
    full = output_loss(student, teacher, temperature=2.0, divergence="forward")
    for top_k, is_equal in ((20, True), (5, False)):
        cache = TeacherCache(tmp_path / "said.db", teacher="t", temperature=2.0, top_k=top_k)
        assert cache.read(inputs, supervised) is None
        cache.write(inputs, supervised, logits=teacher)
        # Rows are found again alone, in another order and with other padding.
        one = {"input_ids": inputs["input_ids"][:1, :3], "attention_mask": torch.ones(1, 3)}
        alone = cache.read(one, supervised[:1, :2])
        best = cache.read(inputs, supervised)
        assert best is not None and alone is not None
        assert alone.ids.equal(best.ids[:1])
        kept = kept_output_loss(student, best, temperature=2.0)
        assert kept <= full * (1 + 1e-5)
        assert bool(kept.isclose(full, rtol=1e-4)) == is_equal
        other = TeacherCache(tmp_path / "said.db", teacher="u", temperature=2.0, top_k=top_k)
        assert other.read(inputs, supervised) is None


def distill(argv: list[str]) -> int:
    return fit.main(argv, prog="x.train_distill", preset=TRAIN_DISTILL)


def history(folder: Path, name: str) -> list[float]:
    state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
    return [entry[name] for entry in state["log_history"] if name in entry]


@pytest.mark.slow
def test_the_loss_of_a_training_is_the_weighted_sum_over_supervised_positions(
    tiny_llama: Path, tiny_teacher: Path, argv_for: Argv, tmp_path: Path
) -> None:
    import torch
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fastchat.families.registry import registry
    from fastchat.message import Message
    from fastchat.train.examples import IGNORED, Labeller

    argv = argv_for(
        max_steps=1,
        teacher_model_name_or_path=tiny_teacher,
        kd_alpha=0.3,
        kd_temperature=2.0,
        learning_rate=0,
        gradient_accumulation_steps=2,
    )
    assert distill([*argv, "--logging_steps", "1"]) == 0
    render = registry().template("vicuna_v1.1").render
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    talk = [
        Message(role="user", text="What is the name of the river?"),
        Message(role="assistant", text="It is the Rhine, I think."),
    ]
    [example] = Labeller(tokenizer, render, max_length=200).label([talk])
    ids, labels = torch.tensor(example.input_ids)[None], torch.tensor(example.labels)
    z_student, z_teacher = (
        AutoModelForCausalLM.from_pretrained(path)(input_ids=ids).logits[0, :-1].double()
        for path in (tiny_llama, tiny_teacher)
    )
    where = labels[1:] != IGNORED
    p, q = (F.softmax(z[where] / 2, dim=-1) for z in (z_teacher, z_student))
    output = 4 * (p * (p / q).log()).sum(dim=-1).mean()
    data = F.cross_entropy(z_student[where], labels[1:][where].long())
    [loss] = history(tmp_path / "out", "loss")
    assert loss == pytest.approx((0.7 * data + 0.3 * output).item(), rel=1e-4)
    assert history(tmp_path / "out", "output_loss")[0] == pytest.approx(output.item(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, {"kd_divergence": "jsd", "kd_beta": 0.4}, {"kd_cache": "x"}])
def test_a_student_comes_nearer_and_is_a_model_without_the_teachers_parts(
    flags: dict[str, object], tiny_teacher: Path, argv_for: Argv, tmp_path: Path
) -> None:
    from safetensors import safe_open

    from fastchat.message import Message
    from fastchat.model.load import ModelSettings, load

    if "kd_cache" in flags:
        flags = {"kd_cache": tmp_path / "said.db", "kd_top_k": 50}
    common = {"teacher_model_name_or_path": tiny_teacher, "kd_alpha": 0.6, "learning_rate": 1e-2}
    argv = argv_for(max_steps=20, save_steps=10, logging_steps=1, **common, **flags)
    assert distill(argv) == 0
    out = tmp_path / "out"
    for name in ("loss", *(["activation_loss"] if "kd_beta" in flags else [])):
        course = history(out, name)
        assert course[-1] < 0.9 * course[0], name
    with safe_open(out / "model.safetensors", "pt") as file:
        assert not [name for name in set(file.keys()) if "distill" in name]
    loaded = load(ModelSettings(model_path=str(out), device="cpu"))
    assert loaded.encode_messages([Message(role="user", text="Hi")])


@pytest.mark.slow
def test_a_resumed_distillation_ends_as_one_without_a_break(
    tiny_teacher: Path, argv_for: Argv, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    common = {
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 1e-2,
        "teacher_model_name_or_path": tiny_teacher,
        "kd_beta": 0.3,
    }
    assert distill(argv_for(**common, output_dir=whole)) == 0
    shutil.copytree(whole / "checkpoint-2", broken / "checkpoint-2")
    assert distill(argv_for(**common, output_dir=broken)) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "--teacher_model_name_or_path is missing"),
        ({"teacher_model_name_or_path": "T", "kd_alpha": 0.9, "kd_beta": 0.2}, "at most 1"),
        ({"teacher_model_name_or_path": "T", "kd_temperature": 0}, "must be above 0"),
        ({"teacher_model_name_or_path": "T", "kd_cache": "c", "kd_beta": 0.1}, "--kd_beta 0 only"),
    ],
)
def test_what_cannot_be_distilled_is_refused(
    flags: dict[str, object], message: str, argv_for: Argv, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(argv_for(**flags)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_teacher_with_other_tokens_is_refused(
    tiny_llama: Path, tiny_teacher: Path, argv_for: Argv, tmp_path: Path
) -> None:
    import shutil

    from fastchat.train.arguments import parse
    from fastchat.train.distill import load_teacher
    from fastchat.train.loading import load_model, load_tokenizer

    other = tmp_path / "other"
    shutil.copytree(tiny_teacher, other)
    path = other / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace('"<pad>"', '"<PAD>"'), "utf-8")
    config = other / "tokenizer_config.json"
    config.write_text(config.read_text("utf-8").replace("<pad>", "<PAD>"), "utf-8")
    argv = argv_for(teacher_model_name_or_path=other)
    arguments = parse(argv, prog="x", preset=TRAIN_DISTILL)
    with pytest.raises(DataError, match="1 of them differ, such as '<pad>'"):
        load_teacher(arguments, student=load_model(arguments), tokenizer=load_tokenizer(arguments))
