"""What docs/arena.md shows is what the commands do: every line parses, and the pipeline runs."""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_judge import FakeJudge

from fastchat import settings
from fastchat.store.arena import ArenaStore
from fastchat.store.arena_records import StoredBattle, StoredConversation, StoredVote
from fastchat.store.database import Database

COMMAND = re.compile(r"python3 -m (fastchat\.[\w.]+)((?:[^`\n\\]|\\\n)*)")


def document(root: Path) -> str:
    return (root / "docs" / "arena.md").read_text("utf-8")


def commands(root: Path) -> list[tuple[str, list[str]]]:
    found = COMMAND.findall(document(root))
    return [(name, shlex.split(flags.replace("\\\n", " "))) for name, flags in found]


@pytest.mark.slow
def test_the_commands_of_the_document_parse(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_command(cls: type, body: object, argv: list[str], *, prog: str) -> int:
        assert prog.endswith(name), "the help page must print the command as it is typed"
        settings.parse(cls, argv, prog=prog)
        return 0

    found = commands(root)
    assert len(found) > 20
    for name, flags in found:
        if name.startswith("fastchat.train."):
            continue  # run below
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "run_command", run_command)
        assert module.main(flags) == 0


def test_every_command_of_the_folder_is_in_the_document(root: Path) -> None:
    folder = root / "fastchat" / "serve" / "monitor"
    known = {p.stem for p in folder.rglob("*.py") if "__main__" in p.read_text("utf-8")}
    named = {name.rpartition(".")[2] for name, _ in commands(root)}
    assert known - named == set()


def test_every_flag_that_the_document_names_exists(root: Path) -> None:
    sources = [*(root / "fastchat" / "serve").rglob("*.py"), root / "fastchat/arena/simulate.py"]
    sources += [root / "fastchat/data/votes_to_pairs.py", *(root / "fastchat/llm_judge").glob("*")]
    texts = [p.read_text("utf-8") for p in sources if p.suffix == ".py"]
    known = {
        "--" + field.replace("_", "-")
        for text in texts
        for field in re.findall(r"^    (\w+): .*", text, re.MULTILINE)
    }
    known |= {alias for text in texts for alias in re.findall(r'"(--[a-z-]+)"', text)}
    named = set(re.findall(r"`(--[a-z][a-z-]+)", document(root)))
    known |= {f"--no-{flag[2:]}" for flag in known}  # of switches
    assert len(named) > 10 and named - known == set()


QUESTIONS = {
    "cooking": "How do I boil an egg in a pan of water, recipe {}?",
    "python": "Write a python function with a loop over string number {}, please.",
    "travel": "Which train and which hotel in the city shall I book on day {}?",
}


def stored(i: int) -> StoredVote:
    """A vote of person i % 5; the first model is the better one, mostly."""
    asked = list(QUESTIONS.values())[i % 3].format(i)
    a, b = (
        StoredConversation(
            id=f"{i}-{side}",
            model=model,
            messages=(("user", asked), ("assistant", f"This is answer {i} of side {side}.")),
            updated_at=1.7e9 + i,
        )
        for side, model in (("a", "tiny-a"), ("b", "tiny-b"))
    )
    battle = StoredBattle(id=str(i), kind="anonymous", a=a, b=b, started_at=1.7e9)
    outcome = "rightvote" if i % 4 == 3 else "leftvote"
    return StoredVote(battle=battle, outcome=outcome, turn=1, voted_at=1.7e9 + i, voter=f"v{i % 5}")


@pytest.fixture
def fake() -> Iterator[FakeJudge]:
    judge = FakeJudge()
    judge.rule = lambda body: (
        "[[A]] [1, 2, 3, 4, 5, 6] <decision>yes</decision> <score>5</score>"
        if "tiny" not in body["model"] and body["model"] != "new"
        else f"I am {body['model']}."
    )
    judge.start()
    yield judge
    judge.stop()


LEFT_OUT = {
    *("launch_all_serve", "gradio_web_server_multi", "call_monitor", "monitor"),  # servers
    *("basic_stats", "vote_time_stats"),  # read logs, which tests of their own make
    "display_score",  # needs people's labels
    "upload_hf_dataset",
    "leaderboard_csv_to_html",  # reads a table of models
}


@pytest.mark.slow
def test_the_pipeline_of_the_document_runs(
    root: Path,
    tmp_path: Path,
    fake: FakeJudge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Line after line in one folder, from a store with votes; only the address differs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
    database = Database("arena.db")
    ArenaStore(database).record([stored(i) for i in range(24)])
    database.close()
    text = document(root).replace("http://localhost:8000/v1", fake.url)
    for kind, name in (("yaml", "label.yaml"), ("toml", "release.toml")):
        [config] = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
        Path(name).write_text(config, "utf-8")
    Path("blocked.txt").write_text("forbidden\n")
    for name, flags in commands(root):
        if name.rpartition(".")[2] in LEFT_OUT:
            continue
        flags = [flag.replace("http://localhost:8000/v1", fake.url) for flag in flags]
        if name.endswith("train_dpo"):
            pytest.importorskip("trl")
            flags = [f.replace("fastchat/model", str(root / "fastchat" / "model")) for f in flags]
            flags += ["--use_cpu", "True", "--report_to", "none", "--model_max_length", "128"]
        assert importlib.import_module(name).main(flags) == 0, (name, capsys.readouterr().err)
    labels = json.loads(Path("labels.json").read_text("utf-8"))
    assert len(labels) == 24 and labels[0]["category_tag"]["math_v0.1"] == {"math": True}
    assert "hard_6" in Path("ratings/ratings.json").read_text("utf-8")
    assert json.loads(Path("release/arena/report.json").read_text("utf-8"))["kept"] == 24
    assert len(json.loads(Path("both.json").read_text("utf-8"))) == 24
    assert len(Path("pairs.jsonl").read_text("utf-8").splitlines()) == 24
    assert Path("dpo/model.safetensors").is_file()
    assert list(Path("simulated_battles").glob("*-conv.json"))
