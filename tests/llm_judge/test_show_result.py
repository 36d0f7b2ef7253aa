import json
import random
from pathlib import Path
from typing import Any

import pytest

from fastchat.llm_judge import clean_judgment, compare, show_result

MODELS = ("a", "b", "gpt-3.5-turbo")


def single_rows(seed: int = 0) -> list[dict[str, Any]]:
    """Random grades with gaps, some rows twice, one of them changed."""
    draw = random.Random(seed)
    rows = [
        {
            **{"question_id": q, "model": m, "judge": ["j", f"p{turn}"], "user_prompt": "u"},
            **{"judgment": "", "score": draw.choice([-1, 1, 2.5, 7, 9, 10]), "turn": turn},
            "tstamp": 1.0,
        }
        for m in MODELS
        for q in range(201, 281)
        for turn in (1, 2)
    ]
    return [*[{**row, "score": 5} for row in rows[:160]], *rows]


def pair_rows(seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    kinds = ["model_1", "model_1", "model_2", "tie", "error"]
    return [
        {
            **{"question_id": q, "model_1": one, "model_2": two, "judge": ["j", f"p{turn}"]},
            **{"g1_winner": draw.choice(kinds), "g2_winner": draw.choice(kinds)},
            **{"turn": turn, "tstamp": 1.0},
        }
        for one, two in (("a", "b"), ("a", "gpt-3.5-turbo"), ("b", "gpt-3.5-turbo"))
        for q in range(201, 281)
        for turn in (1, 2)
    ]


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    path = Path("data/fastchat_bench/model_judgment") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*flags: str, status: int = 0) -> dict[str, Any]:
    words = ["--bench-name", "fastchat_bench", "--judge-model", "j", "--json", "r.json", *flags]
    assert show_result.main(words) == status
    return json.loads(Path("r.json").read_text()) if status == 0 else {}


def test_grades_by_the_published_formulas(here: Path, capsys: Any) -> None:
    rows = single_rows()
    write("j_single.jsonl", rows)
    value = run()
    kept = [row for row in rows[160:] if row["score"] != -1]
    for model in MODELS:
        for name, turns in (("turn_1", (1,)), ("turn_2", (2,)), ("average", (1, 2))):
            scores = [r["score"] for r in kept if r["model"] == model and r["turn"] in turns]
            found = value[name][model]
            assert found["value"] == pytest.approx(sum(scores) / len(scores), abs=1e-9)
            assert found["n"] == len(scores) and found["lower"] < found["value"] < found["upper"]
    n_bad = len(rows) - 160 - len(kept)
    assert value["counts"] == {
        **{"rows": 480, "unparsed": n_bad, "duplicates": 160},
        **{"torn_lines": 0, "rejected_rows": 0},
    }
    out = capsys.readouterr()
    assert "########## First turn ##########" in out.out and "Mode: single" in out.out
    assert "160 duplicate rows" in out.err and f"{n_bad} judgments without a verdict" in out.err
    means = [value["average"][model]["value"] for model in value["average"]]
    assert means == sorted(means, reverse=True)
    assert len(value["categories"]["a"]) == 8


def test_every_turn_has_its_table(here: Path, capsys: Any) -> None:
    rows = [{**row, "score": 5} for row in single_rows()[160:]]
    write("j_single.jsonl", [*rows, {**rows[0], "turn": 3, "score": 8, "judge": ["j", "p3"]}])
    value = run()
    assert value["turn_3"]["a"]["value"] == 8 and value["average"]["a"]["n"] == 161
    assert "########## Turn 3 ##########" in capsys.readouterr().out
    write("j_single.jsonl", [row for row in rows if row["turn"] == 1])
    assert "turn_1" in (value := run()) and not {"turn_2", "average"} & set(value)


@pytest.mark.parametrize("mode", ["pairwise-baseline", "pairwise-all"])
def test_wins_by_the_published_formulas(here: Path, capsys: Any, mode: str) -> None:
    rows = pair_rows()
    write("j_pair.jsonl", rows)
    value = run("--mode", mode)
    base = "gpt-3.5-turbo" if mode == "pairwise-baseline" else None
    counts = {model: [0, 0, 0] for model in MODELS if model != base}
    for row in rows:
        sides = (row["model_1"], row["model_2"])
        if "error" in (row["g1_winner"], row["g2_winner"]) or (base and base not in sides):
            continue
        tie = row["g1_winner"] == "tie" or row["g1_winner"] != row["g2_winner"]
        for side, model in zip(("model_1", "model_2"), sides, strict=True):
            if model in counts:
                counts[model][2 if tie else 0 if row["g1_winner"] == side else 1] += 1
    assert value["wins"].keys() == counts.keys()
    for model, (win, loss, tie) in counts.items():
        found, n = value["wins"][model], win + loss + tie
        assert (found["win"], found["loss"], found["tie"]) == (win, loss, tie)
        assert found["win_rate"] == pytest.approx(win / n, abs=1e-9)
        assert found["loss_rate"] == pytest.approx(loss / n, abs=1e-9)
        adjusted = found["win_rate_adjusted"]
        assert adjusted["value"] == pytest.approx((win + 0.5 * tie) / n, abs=1e-9)
    ratings = [r["rating"] for r in value["ratings"].values()]
    assert sum(ratings) / len(ratings) == pytest.approx(1000)
    bias = value["position_bias"]["j_pair"]
    assert bias["pairs"] == sum(bias[k] for k in ("consistent", "first", "second", "half"))
    assert "win_rate_adjusted" in capsys.readouterr().out


def test_models_are_filtered_on_both_sides(here: Path) -> None:
    write("j_pair.jsonl", pair_rows())
    assert run("--mode", "pairwise-all", "--model-list", "a", "b")["wins"].keys() == {"a", "b"}
    write("j_single.jsonl", single_rows())
    assert run("--model-list", "a")["average"].keys() == {"a"}


def test_a_jury_is_shown_from_several_files(here: Path) -> None:
    write("j_single.jsonl", [row for row in single_rows()[160:] if row["score"] != -1])
    write("k_single.jsonl", [{**row, "score": 4} for row in single_rows()[160:]])
    alone = run()["average"]["a"]["value"]
    both = run("--judge-model", "j", "k")["average"]["a"]
    assert both["n"] == 160
    assert min(4, alone) < both["value"] < max(4, alone)


def test_two_models_are_compared_question_by_question(here: Path, capsys: Any) -> None:
    rows = [row for row in single_rows()[160:] if row["score"] != -1]
    better = [
        {**row, "score": row["score"] + 1, "model": "z"} for row in rows if row["model"] == "a"
    ]
    write("j_single.jsonl", rows + better)
    found = run("--compare", "z", "a")["comparison"]["results"]["all"]
    assert found["difference"] == pytest.approx(1) and found["lower"] == pytest.approx(1)
    told = capsys.readouterr().out
    assert "z less a" in told and "Ahead: z, by 1.00" in told


@pytest.mark.parametrize("mode", ["single", "pairwise"])
def test_the_command_compare_says_the_same(here: Path, mode: str) -> None:
    write("j_single.jsonl", single_rows())
    write("j_pair.jsonl", pair_rows())
    shown = run("--mode", mode.replace("wise", "wise-all"), "--compare", "b", "a")
    words = ["--bench-name", "fastchat_bench", "--judge-model", "j", "--models", "b", "a"]
    assert compare.main([*words, "--mode", mode, "--json", "c.json"]) == 0
    value = json.loads(Path("c.json").read_text())
    assert shown["comparison"]["results"] == value["results"]
    assert len(value["results"]) == 9 and 0 < value["results"]["all"]["p"] <= 1
    assert set(value["notes"]) <= set(shown["notes"])


@pytest.mark.parametrize("form", ["md", "csv"])
def test_tables_come_in_other_forms(here: Path, capsys: Any, form: str) -> None:
    write("j_single.jsonl", single_rows())
    run("--format", form)
    text = capsys.readouterr().out
    assert ("| model | turn | score |" if form == "md" else "model,turn,score,") in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "there are no judgments; make them with gen_judgment --mode single"),
        (("--input-file", "none.jsonl"), "there are no judgments"),
    ],
)
def test_absent_judgments_say_how_to_make_them(here: Path, capsys: Any, flags, said: str) -> None:
    run(*flags, status=2)
    assert said in capsys.readouterr().err


def test_a_filter_that_leaves_nothing_is_told(here: Path, capsys: Any) -> None:
    write("j_single.jsonl", single_rows())
    run("--model-list", "nobody", status=2)
    assert "holds no judgment of nobody" in capsys.readouterr().err
    run("--compare", "a", "nobody", status=1)
    assert "no grades of nobody" in capsys.readouterr().err


def test_torn_and_strange_lines_are_counted_and_the_rest_is_shown(here: Path, capsys: Any) -> None:
    path = write("j_single.jsonl", single_rows()[160:])
    with path.open("a") as file:
        file.write('{"question_id": 1}\n{"question_id": 201, "mod')
    counts = run()["counts"]
    assert (counts["torn_lines"], counts["rejected_rows"]) == (1, 1)
    assert "j_single.jsonl: 1 torn lines left out" in capsys.readouterr().err


@pytest.mark.parametrize(("keep", "score"), [("last", 7), ("first", 5)])
def test_cleaning_keeps_one_row_of_each_in_order(here: Path, keep: str, score: int) -> None:
    rows = [{**row, "score": 7} for row in single_rows()[160:]]
    path = write("j_single.jsonl", [{**row, "score": 5} for row in reversed(rows)] + rows)
    words = ["--infile", str(path), "--keep", keep, "--model-list", "a", "b"]
    assert clean_judgment.main(words) == 0
    cleaned = path.with_name("j_single_clean.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in cleaned]
    assert len(found) == 320 and {row["score"] for row in found} == {score}
    places = [(row["model"], row["question_id"], row["turn"]) for row in found]
    assert places == sorted(places)


def test_cleaning_knows_pairs_and_says_what_is_wrong(here: Path, capsys: Any) -> None:
    path = write("j_pair.jsonl", pair_rows() * 2)
    name = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    assert clean_judgment.main(["--infile", name]) == 0
    assert "480 of 960 judgments" in capsys.readouterr().out
    assert clean_judgment.main([]) == 2
    assert clean_judgment.main(["--infile", "none"]) == 1
    assert clean_judgment.main(["--infile", str(path), "--model-list", "x"]) == 1
