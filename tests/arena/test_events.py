from pathlib import Path
from typing import Any

import orjson
import pytest

from fastchat.arena.events import (
    Event,
    LoggedState,
    Unread,
    append,
    event_from_row,
    log_files,
    log_name,
    read_events,
)
from fastchat.errors import DataError, UsageError

T0 = 1_700_000_000.0  # 2023-11-14 UTC


def state(model: str = "a", **more: Any) -> LoggedState:
    messages = (("user", "hi"), ("assistant", "hello"))
    return LoggedState(conv_id=f"c-{model}", model_name=model, messages=messages, **more)


def vote(tstamp: float = T0, **more: Any) -> Event:
    return Event(
        type="leftvote",
        tstamp=tstamp,
        models=("", ""),
        states=(state("a"), state("b")),
        ip="127.0.0.1",
        **more,
    )


def test_an_event_is_read_as_it_was_written_and_unknown_fields_are_kept(tmp_path: Path) -> None:
    chat = Event(
        type="chat",
        tstamp=T0,
        models=("a",),
        states=(state(extra={"has_csam_image": False}),),
        ip="::1",
        gen_params={"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 16},
        start=T0 - 2,
        finish=T0 - 1,
    )
    events = [chat, vote(extra={"battle_id": "x"})]
    path, same = [append(tmp_path, event) for event in events]
    assert path == same
    assert path.name == "2023-11-14-conv.json" == log_name(T0)
    assert list(read_events([path])) == events


def test_the_row_has_the_published_fields() -> None:
    row = vote().to_row()
    assert set(row) == {"tstamp", "type", "models", "states", "ip"}
    assert set(row["states"][0]) == {
        *("template_name", "system_message", "roles", "messages", "offset"),
        *("conv_id", "model_name"),
    }


def test_lines_that_are_no_events_are_told_by_reason(tmp_path: Path) -> None:
    path = append(tmp_path, vote())
    row = vote().to_row()
    lines = [
        b'{"type": "chat"}',
        orjson.dumps(row | {"type": "superlike"}),
        '{"type": "chat", "ip": "é"}'.encode("latin-1"),
        b'{"type" "chat"}',
        orjson.dumps(row | {"models": ["a"]}),
        b"[1]",
        orjson.dumps(row)[:40],
    ]
    with path.open("ab") as file:
        file.write(b"\n".join(lines))
    read = list(read_events([path]))
    assert read[0] == vote()
    assert [(x.reason, x.line) for x in read if isinstance(x, Unread)] == [
        *(("bad_row", 2), ("unknown_type", 3), ("not_utf8", 4), ("not_json", 5)),
        *(("bad_row", 6), ("bad_row", 7), ("torn_line", 8)),
    ]


def test_a_torn_last_line_costs_no_other(tmp_path: Path) -> None:
    path = append(tmp_path, vote())
    with path.open("ab") as file:
        file.write(b'{"type": "cha')
    append(tmp_path, vote(T0 + 1))
    read = list(read_events([path]))
    assert [x.reason if isinstance(x, Unread) else x.tstamp for x in read] == [
        *(T0, "torn_line", T0 + 1)
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tstamp": "now"}, "tstamp"),
        ({"states": None}, "states"),
        ({"states": [1, 2]}, "state"),
        ({"ip": 5}, "ip"),
        ({"type": "like"}, "type"),
    ],
)
def test_a_row_that_is_not_right_is_told_by_its_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        event_from_row(vote().to_row() | change)


def test_logs_of_all_servers_are_found_by_day(tmp_path: Path) -> None:
    for name in ("server0/2024-01-02-conv.json", "server1/2024-01-01-conv.json", "x-conv.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "2024-01-03-conv.json").touch()
    days = [p.name[:10] for p in log_files(tmp_path)]
    assert days == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert [p.name[:10] for p in log_files(tmp_path, newest=1)] == ["2024-01-03"]
    with pytest.raises(UsageError, match="no log"):
        log_files(tmp_path / "server9")


def test_a_share_has_two_sides_and_an_error_is_a_chat(tmp_path: Path) -> None:
    share = Event(type="share", tstamp=T0, models=("", ""), states=(state("a"), state("b")))
    error = Event(type="error", tstamp=T0, models=("a",), states=(state("a"),), start=T0, finish=T0)
    paths = {append(tmp_path, event) for event in (share, error)}
    assert list(read_events(paths)) == [share, error]
    assert "states" in share.to_row() and "start" in error.to_row()
