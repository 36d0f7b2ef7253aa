from pathlib import Path
from typing import Any

import pytest

from fastchat.arena.activity import Activity
from fastchat.arena.battles import Cleaner, CleaningRules, battles_of_logs
from fastchat.arena.events import Event, LoggedState, append
from fastchat.arena.languages import detect
from fastchat.arena.wording import wording
from fastchat.protocol.errors import SERVER_ERROR_MSG

T0 = 1_700_000_000.0


def state(
    key: str = "1",
    model: str | None = "m-a",
    *,
    answer: Any = "Boil it for three minutes, then rest it.",
    ask: Any = "How do I cook an egg in water?",
    offset: int = 0,
) -> LoggedState:
    return LoggedState(
        conv_id=key,
        model_name=model,
        messages=(("user", ask), ("assistant", answer)),
        offset=offset,
    )


def vote(
    a: LoggedState | None = None,
    b: LoggedState | None = None,
    *,
    names: tuple[str | None, str | None] = ("", ""),
    kind: Any = "leftvote",
    at: float = T0,
    ip: str = "1.2.3.4",
    **extra: Any,
) -> Event:
    return Event(
        type=kind,
        tstamp=at,
        models=names,
        states=(a or state(), b or state("2", "m-b")),
        ip=ip,
        extra=extra,
    )


def reason(event: Event, **rules: Any) -> str | None:
    """Why the vote does not count; None when it does."""
    cleaner = Cleaner(CleaningRules(**rules))
    return None if cleaner.row(event) else next(iter(cleaner.report.dropped))


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (vote(), None),
        (vote(names=(None, "")), "no_model"),
        (vote(names=("m-a", "")), "invalid"),
        (vote(names=("m-a", "other")), "invalid"),
        (vote(names=("### Model A: m-a", "### Model B: m-b")), None),
        (vote(names=('<h3 class="x">Model A: m-a</h3>', "<h3>Model B: m-b</h3>")), None),
        (vote(state(offset=2)), "invalid"),
        (vote(state(offset=-1)), "invalid"),
        (vote(state(model=None)), "invalid"),
        (vote(state(answer=None)), "none_msg"),
        (vote(state(answer="")), "none_msg"),
        (vote(state(ask=["", ["image-1"]])), None),
        (vote(state(answer="I am Vicuna, made by LMSYS.")), "leaked_identity"),
        (vote(state(answer="I am ChatGPT.")), "leaked_identity"),
        (vote(state(answer="Plant a palm tree. As an AI model I like kai2.")), None),
        (vote(state(answer="As an AI model, I go by Bard.")), "leaked_identity"),
        (vote(state(answer="**API REQUEST ERROR** Reason: unknown")), "error"),
        (vote(state(answer=f"{SERVER_ERROR_MSG}\n\n(x)")), "error"),
        (vote(state(answer="half▌")), "unfinished"),
        (vote(state("1", "same"), state("2", "same")), "same_model"),
        (vote(origin="judge"), "judge_vote"),
    ],
)
def test_a_vote_counts_or_is_left_out_for_one_reason(event: Event, wanted: str | None) -> None:
    assert reason(event) == wanted


def test_published_rules_look_for_parts_of_words_in_all_texts() -> None:
    assert reason(vote(state(answer="A palm tree.")), published=True) == "leaked_identity"
    assert reason(vote(state(ask="Who is Claude Monet?")), published=True) == "leaked_identity"
    assert reason(vote(state(ask="Who is Claude Monet?"))) is None


def test_rules_by_choice() -> None:
    assert reason(vote(), exclude_models=frozenset({"m-b"})) == "exclude_model"
    assert reason(vote(), banned_ips=frozenset({"1.2.3.4"})) == "banned"
    assert reason(vote(), since=T0 + 1) == "out_of_time"
    assert reason(vote(), until=T0) == "out_of_time"
    assert reason(vote(), since=T0, until=T0 + 1) is None


def test_one_vote_a_conversation_and_so_many_an_hour() -> None:
    cleaner = Cleaner(CleaningRules(votes_per_hour=2))
    pairs = [(vote(state(k), state(k + "b", "m-b"), at=T0 + i)) for i, k in enumerate("aabc")]
    later = vote(state("d"), state("db", "m-b"), at=T0 + 4000)
    rows = list(cleaner.rows([*pairs, later]))
    assert [row["question_id"] for row in rows] == ["a", "b", "d"]
    assert cleaner.report.dropped == {"repeated_vote": 1, "too_many": 1}


def test_a_vote_sooner_than_anybody_reads_is_left_out() -> None:
    chats = [
        Event(type="chat", tstamp=T0, models=("m",), states=(s,), finish=T0)
        for s in (state(), state("2", "m-b"))
    ]
    cleaner = Cleaner(CleaningRules(shortest_s=2.0))
    quick, slow = vote(at=T0 + 1), vote(state("3"), state("4", "m-b"), at=T0 + 9)
    assert len(list(cleaner.rows([*chats, quick, slow]))) == 1
    assert cleaner.report.dropped == {"too_quick": 1}


def test_the_row_has_the_published_fields_and_what_boards_ask() -> None:
    row = Cleaner(key=b"k" * 32).row(vote(kind="bothbad_vote"))
    assert row is not None
    assert row["winner"] == "tie (bothbad)"
    assert (row["model_a"], row["model_b"], row["anony"]) == ("m-a", "m-b", True)
    assert row["language"] == "English" and row["turn"] == 1
    assert row["conversation_a"][1]["role"] == "assistant"
    assert row["conversation_a"][1]["num_tokens"] > 5
    assert row["conv_metadata"]["sum_assistant_a_tokens"] > 5
    assert row["judge"].startswith("arena_user_") and "1.2.3.4" not in row["judge"]


def test_voters_are_named_the_same_by_the_same_key_only() -> None:
    one, same, other = (Cleaner(key=k * 32).row(vote()) for k in (b"a", b"a", b"b"))
    assert one and same and other
    assert one["judge"] == same["judge"] != other["judge"]
    kept = Cleaner(keep_addresses=True).row(vote())
    assert kept and kept["judge"] == "arena_user_1.2.3.4"


def test_named_votes_are_kept_and_marked() -> None:
    row = Cleaner().row(vote(names=("m-a", "m-b")))
    assert row is not None and row["anony"] is False


@pytest.mark.parametrize(
    ("old", "tstamp", "new"),
    [
        ("bard", T0, "palm-2"),
        ("gpt-4", 1687849200, "gpt-4-0314"),
        ("gpt-4", 1687849201, "gpt-4-0613"),
        ("other", T0, "other"),
    ],
)
def test_models_have_the_names_of_today(old: str, tstamp: float, new: str) -> None:
    assert wording().name(old, tstamp) == new


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I cook an egg in water?", "English"),
        ("怎样煮鸡蛋？请告诉我。", "Chinese"),
        ("卵の茹で方を教えてください。", "Japanese"),
        ("Wie koche ich ein Ei, damit es weich bleibt?", "German"),
        ("달걀을 삶는 방법을 알려 주세요", "Korean"),
        ("12345 +-*/", "unknown"),
        ("", "unknown"),
    ],
)
def test_languages_have_their_english_names(text: str, language: str) -> None:
    assert detect(text) == language


def test_logs_become_a_table_with_every_line_accounted_for(tmp_path: Path) -> None:
    path = append(tmp_path, vote())
    append(tmp_path, vote(at=T0 + 1))
    append(tmp_path, vote(state("5"), state("6", "m-b"), at=T0 + 2, kind="tievote"))
    with path.open("ab") as file:
        file.write(b'{"type": "leftv')
    table = battles_of_logs([path])
    assert table.frame["winner"].to_list() == ["model_a", "tie"]
    assert table.refused == {"repeated_vote": 1, "torn_line": 1}


def test_activity_counts_by_day_kind_model_and_hour() -> None:
    chats = [
        Event(type="chat", tstamp=T0 + dt, models=(m,), states=(state(),))
        for dt, m in ((0.0, "x"), (90_000.0, "x"), (90_001.0, "y"))
    ]
    found = Activity().add([*chats, vote(), vote(names=("m-a", "m-b"), kind="tievote")])
    assert found.kinds == {"chat": 3, "leftvote": 1, "tievote": 1}
    assert found.blind_votes["leftvote"] == 1 and found.blind_votes["tievote"] == 0
    assert found.models == {"x": 2, "y": 1}
    assert found.models_since(3600) == {"x": 1, "y": 1}
    assert sum(n for _, n in found.last_hours()) == 2
    assert sorted(found.days.values()) == [1, 2, 2]
