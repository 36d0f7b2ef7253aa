"""Weight tools: deltas, precision, parts, and what is refused before anything is written."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.model import apply_delta as apply_delta_command
from fastchat.model import convert_fp16, upload_hub
from fastchat.model import make_delta as make_delta_command
from fastchat.model.delta import apply_delta, make_delta
from fastchat.model.weight_files import open_checkpoint, write_model


def tensors(folder: Path) -> dict[str, Any]:
    return dict(open_checkpoint(str(folder)).tensors())


@pytest.fixture(scope="module")
def tuned(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its weights moved, as training moves them; in two parts."""
    import torch

    folder = tmp_path_factory.mktemp("tuned") / "model"
    torch.manual_seed(1)
    moved = (
        (name, value + 0.01 * torch.randn_like(value))
        for name, value in tensors(checkpoint).items()
    )
    write_model(moved, folder, like=checkpoint, dtype="float32", part_bytes=100_000)
    return folder


def saved_as_bin(folder: Path, target: Path, *, change: dict[str, Any] | None = None) -> Path:
    """The same model as old checkpoints hold it, with some tensors changed."""
    import shutil

    import torch

    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    torch.save(tensors(folder) | (change or {}), target / "pytorch_model.bin")
    return target


def test_base_plus_delta_is_the_target(checkpoint: Path, tuned: Path, tmp_path: Path) -> None:
    delta, whole = tmp_path / "delta", tmp_path / "whole"
    words = ["--base", str(checkpoint), "--delta", str(delta), "--target"]
    assert make_delta_command.main([*words, str(tuned)]) == 0
    assert apply_delta_command.main([*words, str(whole), "--low-cpu-mem"]) == 0
    expected = tensors(tuned)
    for name, value in tensors(whole).items():
        assert str(value.dtype) == "torch.float16"
        assert float((value.float() - expected[name]).abs().max()) < 2e-3, name
    assert json.loads((whole / "config.json").read_text())["dtype"] == "float16"
    assert (whole / "tokenizer.json").read_bytes() == (tuned / "tokenizer.json").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_result_is_loaded_by_the_library(checkpoint: Path, tuned: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    make_delta(str(checkpoint), str(tuned), str(tmp_path / "delta"), dtype="float32")
    whole = apply_delta(
        str(checkpoint), str(tmp_path / "whole"), str(tmp_path / "delta"), dtype="float32"
    )
    ours = AutoModelForCausalLM.from_pretrained(whole).state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(tuned).state_dict().items():
        assert float((ours[name] - value).abs().max()) < 1e-6, name


def test_parts_and_old_formats_are_read_alike(
    checkpoint: Path, tuned: Path, tmp_path: Path
) -> None:
    assert len(list(tuned.glob("*.safetensors"))) > 1
    old = saved_as_bin(tuned, tmp_path / "old")
    for i, source in enumerate((tuned, old)):
        make_delta(str(checkpoint), str(source), str(tmp_path / f"delta-{i}"))
    first, second = tensors(tmp_path / "delta-0"), tensors(tmp_path / "delta-1")
    assert {name: value.tolist() for name, value in first.items()} == {
        name: value.tolist() for name, value in second.items()
    }


def test_one_more_row_is_explained(checkpoint: Path, tmp_path: Path) -> None:
    import torch

    name = "model.embed_tokens.weight"
    longer = torch.zeros(261, 64)
    delta = saved_as_bin(checkpoint, tmp_path / "v0", change={name: longer})
    with pytest.raises(DataError, match=r"differ by 1.*v1\.1"):
        apply_delta(str(checkpoint), str(tmp_path / "whole"), str(delta))
    assert not (tmp_path / "whole").exists()


def test_another_size_and_another_kind_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    import torch

    name = "model.norm.weight"
    wide = saved_as_bin(checkpoint, tmp_path / "wide", change={name: torch.zeros(65)})
    with pytest.raises(DataError, match="another size"):
        apply_delta(str(checkpoint), str(tmp_path / "whole"), str(wide))
    odd = saved_as_bin(checkpoint, tmp_path / "odd", change={"extra": torch.zeros(1)})
    with pytest.raises(DataError, match=r"'extra' in .*odd"):
        apply_delta(str(checkpoint), str(tmp_path / "whole"), str(odd))


def test_a_full_target_is_left_alone(checkpoint: Path, tuned: Path) -> None:
    before = sorted(path.name for path in tuned.iterdir())
    with pytest.raises(UsageError, match="already"):
        apply_delta(str(checkpoint), str(tuned), str(checkpoint))
    assert sorted(path.name for path in tuned.iterdir()) == before


def test_a_folder_without_weights_and_a_missing_part_are_told(tuned: Path, tmp_path: Path) -> None:
    import shutil

    part = tmp_path / "part"
    shutil.copytree(tuned, part)
    sorted(part.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(DataError, match="download that file again"):
        open_checkpoint(str(part))
    for file in part.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(DataError, match="no weights"):
        open_checkpoint(str(part))


def test_half_precision_copies_whatever_fits(checkpoint: Path, tmp_path: Path) -> None:
    import torch

    assert convert_fp16.main(["--in", str(checkpoint), "--out", str(tmp_path / "half")]) == 0
    assert {str(value.dtype) for value in tensors(tmp_path / "half").values()} == {"torch.float16"}
    large = saved_as_bin(
        checkpoint, tmp_path / "large", change={"model.norm.weight": torch.full((64,), 1e5)}
    )
    with pytest.raises(DataError, match=r"model\.norm\.weight holds 1e\+05"):
        convert_fp16.convert(str(large), tmp_path / "half2")
    assert not (tmp_path / "half2").exists()
    convert_fp16.convert(str(large), tmp_path / "half2", dtype="bfloat16")


def test_a_failing_command_prints_one_line(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--base", str(tmp_path / "none here"), "--target", "t", "--delta", str(checkpoint)]
    done = subprocess.run(
        [sys.executable, "-m", "fastchat.model.apply_delta", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "none here" in done.stderr


class FakeHub:
    """Remembers what is uploaded."""

    uploads: list[tuple[dict[str, Any], list[str]]]
    failure: Exception | None = None

    def __init__(self) -> None:
        type(self).uploads = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self.failure is not None:
            raise self.failure

    def upload_folder(self, *, folder_path: Path, **arguments: Any) -> SimpleNamespace:
        self.uploads.append((arguments, sorted(path.name for path in folder_path.iterdir())))
        return SimpleNamespace(commit_url="https://hub.example/commit")


def test_the_model_is_uploaded_in_half_precision(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    words = ["--model-path", str(checkpoint), "--hub-repo-id", "a/b"]
    assert upload_hub.main([*words, "--component", "model"]) == 0
    arguments, files = FakeHub.uploads[0]
    assert arguments["repo_id"] == "a/b" and "*.safetensors" in arguments["allow_patterns"]
    assert "model.safetensors" in files
    assert upload_hub.main([*words, "--component", "tokenizer"]) == 0
    assert "*.safetensors" in FakeHub.uploads[0][0]["ignore_patterns"]


def test_a_hub_that_refuses_is_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "failure", OSError("no route to the hub"))
    with pytest.raises(UnavailableError, match="no route"):
        upload_hub.upload_folder(checkpoint, "a/b")
