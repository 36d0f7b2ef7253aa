from typing import Any

import pytest

from fastchat.errors import UsageError
from fastchat.model.load import ModelSettings
from fastchat.model.placement import (
    Machine,
    choose_device,
    choose_dtype,
    device_map,
    first_device,
    machine,
    memory_cap,
    show_gpus,
)

CPU_ONLY = Machine(accelerators={})
TWO_GPUS = Machine(accelerators={"cuda": 2}, bfloat16_devices=frozenset({"cuda"}))
OLD_GPU = Machine(accelerators={"cuda": 1})
AMX = Machine(accelerators={}, cpu_flags=frozenset({"amx_bf16", "avx512_bf16"}))


def settings(**values: Any) -> ModelSettings:
    return ModelSettings(**values)


@pytest.mark.parametrize(
    ("there", "device"),
    [
        ({}, "cpu"),
        ({"mps": 1}, "mps"),
        ({"xpu": 1, "mps": 1}, "xpu"),
        ({"npu": 1, "xpu": 1}, "npu"),
        ({"cuda": 1, "npu": 1, "xpu": 1, "mps": 1}, "cuda"),
    ],
)
def test_auto_takes_the_best_device_that_exists(there: dict[str, int], device: str) -> None:
    assert choose_device(settings(), Machine(accelerators=there)) == device


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu", "npu"])
def test_a_device_that_is_not_there_is_one_line_that_names_what_is(device: Any) -> None:
    with pytest.raises(UsageError, match=f"--device {device}.*there is cpu") as caught:
        choose_device(settings(device=device), CPU_ONLY)
    assert "\n" not in str(caught.value)


def test_more_accelerators_than_there_are_is_an_error() -> None:
    assert choose_device(settings(num_gpus=2), TWO_GPUS) == "cuda"
    with pytest.raises(UsageError, match="2 of cuda"):
        choose_device(settings(num_gpus=3), TWO_GPUS)
    with pytest.raises(UsageError, match="none"):
        choose_device(settings(num_gpus=2), CPU_ONLY)
    with pytest.raises(UsageError, match="does not apply to cpu"):
        choose_device(settings(max_gpu_memory="8GiB"), CPU_ONLY)


@pytest.mark.parametrize(
    ("text", "cap"),
    [("8GiB", "8192MiB"), ("13Gib", "13312MiB"), ("500 MiB", "500MiB"), ("1.5gib", "1536MiB")],
)
def test_memory_caps_are_read_in_the_published_spellings(text: str, cap: str) -> None:
    assert memory_cap(text) == cap


def test_decimal_units_are_decimal() -> None:
    assert memory_cap("10GB") == f"{10**10 // 2**20}MiB"


@pytest.mark.parametrize("text", ["8", "GiB", "-1GiB", "0GiB", "8 GiB of it", "8Gi"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="like 8GiB"):
        memory_cap(text)


def test_one_device_takes_the_model_whole() -> None:
    assert device_map(settings(), "cpu", {}) == {}
    assert device_map(settings(), "cuda", {}) == {"device_map": {"": "cuda:0"}}
    assert first_device("npu") == "npu:0" and first_device("mps") == "mps"


def test_several_devices_are_filled_to_85_percent_unless_there_is_a_cap() -> None:
    free = {0: 40 * 2**30, 1: 20 * 2**30}
    assert device_map(settings(num_gpus=2), "cuda", free) == {
        "device_map": "sequential",
        "max_memory": {0: "34GiB", 1: "17GiB"},
    }
    assert device_map(settings(num_gpus=2, max_gpu_memory="8GiB"), "cuda", free) == {
        "device_map": "auto",
        "max_memory": {0: "8192MiB", 1: "8192MiB"},
    }


@pytest.mark.parametrize(
    ("there", "device", "checkpoint", "dtype"),
    [
        (CPU_ONLY, "cpu", "float32", "float32"),
        (CPU_ONLY, "cpu", "bfloat16", "float32"),
        (AMX, "cpu", "bfloat16", "bfloat16"),
        (AMX, "cpu", "float16", "bfloat16"),
        (AMX, "cpu", "float32", "float32"),
        (AMX, "cpu", None, "float32"),
        (TWO_GPUS, "cuda", "bfloat16", "bfloat16"),
        (TWO_GPUS, "cuda", "float16", "float16"),
        (TWO_GPUS, "cuda", "float32", "float16"),
        (OLD_GPU, "cuda", "bfloat16", "float16"),
    ],
)
def test_precision_suits_checkpoint_and_device(
    there: Machine, device: str, checkpoint: Any, dtype: str
) -> None:
    assert choose_dtype(settings(), device, there, checkpoint=checkpoint) == (dtype, None)


def test_a_wish_for_a_precision_wins() -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        wish = settings(dtype=dtype, cpu_isa="amx")
        assert choose_dtype(wish, "cpu", AMX, checkpoint="float32") == (dtype, None)


def test_cpu_isa_asks_for_bfloat16_and_says_when_it_cannot_be() -> None:
    wish = settings(cpu_isa="amx")
    assert choose_dtype(wish, "cpu", AMX, checkpoint="float32") == ("bfloat16", None)
    dtype, warning = choose_dtype(wish, "cpu", CPU_ONLY, checkpoint="float32")
    assert dtype == "float32" and "amx" in str(warning)
    with pytest.raises(UsageError, match="avx512_bf16"):
        choose_dtype(settings(cpu_isa="sse"), "cpu", AMX, checkpoint=None)


def test_gpus_are_shown_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("CUDA_VISIBLE_DEVICES", "XPU_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "9")
    show_gpus(None, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "9"
    show_gpus("0, 2", 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["XPU_VISIBLE_DEVICES"] == "0,2"


@pytest.mark.parametrize(
    ("gpus", "n"), [("0", 2), ("a", 1), ("0,0", 2), ("", 1), ("0,", 1), (None, 0)]
)
def test_malformed_gpus_are_refused(gpus: str | None, n: int) -> None:
    with pytest.raises(UsageError):
        show_gpus(gpus, n)


def test_this_machine_has_a_cpu_at_least() -> None:
    assert machine().devices[-1] == "cpu"
