"""Conversations are kept and dropped by language and by repetition."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastchat.data.languages import UNKNOWN, detect_language
from fastchat.data.optional_clean import main, repeats_phrase

Talk = Callable[..., dict[str, Any]]

ENGLISH = "The river carries a small boat past the quiet village, and nobody minds."
GERMAN = "Der Fluss trägt ein kleines Boot am stillen Dorf vorbei, und niemand stört sich daran."
KOREAN = "강물이 작은 배를 조용한 마을 옆으로 실어 나르고 아무도 신경 쓰지 않습니다."
CHINESE = "河水把一只小船带过安静的村庄，谁也不在意。"
JAPANESE = "川は静かな村のそばを小さな舟を運んでいき、誰も気にしません。"


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        ([ENGLISH], "en"),
        ([GERMAN], "de"),
        ([KOREAN], "ko"),
        ([CHINESE], "zh"),
        ([JAPANESE], "ja"),
        ([CHINESE, "```python\nfor word in words:\n    print(word and nothing else)\n```"], "zh"),
        ([KOREAN, "| small | quiet |\n| --- | --- |\n| river | village |"], "ko"),
        ([ENGLISH, "`강물이 작은 배를 조용한 마을 옆으로`"], "en"),
        ([ENGLISH + "\x00\x1b control characters do not matter"], "en"),
        (["12345 67890 !!"], UNKNOWN),
        ([], UNKNOWN),
    ],
)
def test_the_language_is_that_of_the_prose(texts: list[str], code: str) -> None:
    assert detect_language(texts) == code


def test_generated_korean_chinese_and_japanese_are_told(generate: Callable[..., Any]) -> None:
    made = generate("--n", "1500", "--seed", "0", "--format", "markdown", "--clean-only")
    scripts = {"zh": "我们今天在学校里", "ja": "今日は学校で天気", "ko": "오늘우리는학교에서"}
    n_seen = n_right = 0
    for record in json.loads(made.path.read_text("utf-8")):
        texts = [turn["value"] for turn in record["conversations"]]
        # The generator writes the human's words of such a conversation in one script only.
        asked = "".join(texts[::2])
        known = "en"
        if not asked.isascii():
            known = "ko" if any("가" <= x <= "힣" for x in asked) else "zh"
            known = "ja" if any("ぁ" <= x <= "ん" for x in asked) else known
        n_seen += known in scripts
        n_right += known in scripts and detect_language(texts) == known
        if known == "en":
            assert detect_language(texts) not in scripts
    assert n_seen > 100
    assert n_right >= 0.99 * n_seen


def run(tmp_path: Path, records: list[dict[str, Any]], *flags: str) -> list[str]:
    """The ids that are left."""
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(json.dumps(records), "utf-8")
    assert main(["--in", str(source), "--out", str(target), "--quiet", *flags]) == 0
    return [record["id"] for record in json.loads(target.read_text("utf-8"))]


@pytest.fixture
def languages(talk: Talk) -> list[dict[str, Any]]:
    return [
        talk("en", ENGLISH, ENGLISH),
        talk("ko", KOREAN, KOREAN),
        talk("de", GERMAN, GERMAN),
        talk("digits", ENGLISH, "It is 1000000000000 exactly."),
        talk("nines", ENGLISH, "It is 12999999999 exactly."),
    ]


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        ([], ["en", "ko", "de", "digits", "nines"]),
        (["--keep-lang", "all"], ["en", "ko", "de", "digits", "nines"]),
        (["--skip-lang", "ko"], ["en", "de", "digits", "nines"]),
        (["--skip_lang", "ko,de"], ["en", "digits", "nines"]),
        (["--keep-lang", "en"], ["en", "digits", "nines"]),
        (["--keep-lang", "ko,de"], ["ko", "de"]),
        (["--reduce-rep"], ["en", "ko", "de"]),
    ],
)
def test_what_is_left(
    tmp_path: Path, languages: list[dict[str, Any]], flags: list[str], left: list[str]
) -> None:
    assert run(tmp_path, languages, *flags) == left


@pytest.mark.parametrize(
    "code", ["ko", *(pytest.param(c, marks=pytest.mark.slow) for c in ("zh", "ja"))]
)
def test_without_a_report_the_same_is_dropped(
    tmp_path: Path, generate: Callable[..., Any], code: str
) -> None:
    made = generate("--n", "600", "--seed", "0", "--format", "markdown")
    records = json.loads(made.path.read_text("utf-8"))
    report = str(tmp_path / "report.json")
    with_report = run(tmp_path, records, "--skip-lang", code, "--report", report)
    assert len(with_report) < len(records)
    assert run(tmp_path, records, "--skip-lang", code) == with_report


def test_the_summary_the_report_and_the_note_about_zeros(
    tmp_path: Path, languages: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    report_path = tmp_path / "report.json"
    run(tmp_path, languages, "--reduce-rep", "--report", str(report_path))
    printed = capsys.readouterr()
    assert printed.out == "#in: 5, #out: 3\n"
    assert "1 conversations for a run of zeros" in printed.err
    report = json.loads(report_path.read_text("utf-8"))
    assert (report["in"], report["out"]) == (5, 3)
    assert report["dropped"] == {"repeated digits": 2}
    assert report["changed"]["language en"] == 3
    assert report["changed"]["language ko"] == report["changed"]["language de"] == 1


def test_a_repeated_phrase_is_dropped(tmp_path: Path, talk: Talk) -> None:
    records = [talk("a", "Go", "I see. " * 30), talk("b", "Go", "one two three one two four")]
    assert run(tmp_path, records, "--max-repeats", "5") == ["b"]
    assert repeats_phrase("a b a b a b", limit=2)
    assert not repeats_phrase("a b a b a b", limit=3)
    assert not repeats_phrase("", limit=1)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "sharegpt_clean.json"),
        (["--keep-lang", "en"], "sharegpt_clean_en.json"),
        (["--skip-lang", "ko"], "sharegpt_clean_skip_ko.json"),
        (["--skip-lang", "ko", "--reduce-rep"], "sharegpt_clean_skip_ko_reduce_rep.json"),
    ],
)
def test_the_default_name_tells_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, talk: Talk, flags: list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.json").write_text(json.dumps([talk("a", ENGLISH, ENGLISH)]), "utf-8")
    assert main(["--in-file", "in.json", *flags]) == 0
    assert [x.name for x in tmp_path.iterdir() if x.name != "in.json"] == [name]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep-lang", "en", "--skip-lang", "ko"], "exclude each other"),
        (["--skip-lang", "klingon"], "--skip-lang 'klingon' is no language"),
        (["--max-repeats", "0"], "--max-repeats 0 is too small"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["--in", str(tmp_path / "in.json"), *flags]) == 2
    assert message in capsys.readouterr().err
