import shutil
from pathlib import Path

import pytest

from fastchat.errors import UnavailableError, UsageError
from fastchat.model import hub


def test_a_folder_is_taken_as_it_is(checkpoint: Path) -> None:
    assert hub.locate(str(checkpoint)) == hub.Source(path=str(checkpoint))


@pytest.mark.parametrize("path", ["/no/such/folder", "./none", "a b", "one/two/three", "", "~none"])
def test_what_is_neither_a_folder_nor_an_id_is_one_line(path: str) -> None:
    with pytest.raises(UsageError, match="no folder here") as caught:
        hub.locate(path)
    assert "\n" not in str(caught.value)


def test_files_and_folders_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        hub.locate(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match="is a file"):
        hub.locate(str(tmp_path / "model.safetensors"))


def test_a_gguf_file_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    for path in (tmp_path, tmp_path / "x.gguf"):
        source = hub.locate(str(path))
        assert (source.path, source.gguf) == (str(tmp_path), {"gguf_file": "x.gguf"})


def test_the_builtin_model_gives_way_to_a_folder_of_its_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / hub.BUILTIN)
    monkeypatch.chdir(tmp_path)
    assert hub.locate(hub.BUILTIN).path == hub.BUILTIN
    monkeypatch.chdir(tmp_path.parent)
    builtin = Path(hub.__file__).parent / hub.BUILTIN
    if builtin.is_dir():
        assert hub.locate(hub.BUILTIN) == hub.Source(path=str(builtin))
    else:
        with pytest.raises(UsageError, match="not in this installation"):
            hub.locate(hub.BUILTIN)


def test_an_unreachable_hub_is_one_line_unless_the_files_are_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The tests run with HF_HUB_OFFLINE, which the client treats like a dead connection.
    with pytest.raises(UnavailableError, match="hub cannot be reached"):
        hub.locate("someone/some-model")
    monkeypatch.setattr(hub, "_is_cached", lambda *_: True)
    source = hub.locate("someone/some-model", revision="v1")
    assert source.arguments == {"revision": "v1", "local_files_only": True}


def test_a_reachable_hub_is_asked_for_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_is_hub_reachable", lambda: True)
    source = hub.locate("someone/some-model", revision="v1")
    assert source == hub.Source(path="someone/some-model", arguments={"revision": "v1"})


def test_modelscope_without_its_package_is_one_line() -> None:
    with pytest.raises(UsageError, match="pip install modelscope"):
        hub.locate("someone/some-model", use_modelscope=True)
