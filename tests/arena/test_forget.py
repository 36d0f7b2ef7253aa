"""Lines of the log that are forgotten while a server goes on writing."""

import datetime
from pathlib import Path

from fastchat.arena.events import Event, LoggedState, append, log_files, log_name, read_events
from fastchat.arena.forget import PICTURES, blank_lines, known_logs, remove_days, remove_pictures

DAY_S = 86_400.0
NOON = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC).timestamp()


def line(ip: str, text: str, at: float = NOON) -> Event:
    state = LoggedState(conv_id=text, model_name="m", messages=(("user", text),))
    return Event(type="chat", tstamp=at, models=("m",), states=(state,), ip=ip)


def said(root: Path) -> list[str]:
    events = list(read_events(log_files(root)))
    assert all(isinstance(event, Event) for event in events), "what is blank is skipped"
    return [event.states[0].conv_id for event in events if isinstance(event, Event)]


def test_lines_are_blanked_where_they_stand(tmp_path: Path) -> None:
    for event in (line("ann", "one"), line("bob", "two"), line("ann", "日本語")):
        path = append(tmp_path, event)
    size = path.stat().st_size
    assert blank_lines(path, lambda event: event.ip == "ann", dry=True) == 2
    assert said(tmp_path) == ["one", "two", "日本語"]

    def forgotten(event: Event) -> bool:
        if event.ip == "bob":  # a server that writes while the log is read
            append(tmp_path, line("cat", "three"))
        return event.ip == "ann"

    assert blank_lines(path, forgotten) == 2
    assert said(tmp_path) == ["two", "three"]
    assert b"one" not in path.read_bytes() and path.stat().st_size > size
    assert blank_lines(path, lambda event: event.ip == "ann") == 0


def test_torn_and_foreign_lines_stay_as_they_are(tmp_path: Path) -> None:
    path = append(tmp_path, line("ann", "one"))
    with path.open("ab") as file:
        file.write(b"no json\n[]\n")
    append(tmp_path, line("ann", "two"))
    with path.open("ab") as file:
        file.write(b'{"type": "chat", "torn')
    assert blank_lines(path, lambda event: True) == 2
    assert path.read_bytes().split() == [b"no", b"json", b"[]", b'{"type":', b'"chat",', b'"torn']


def test_days_that_were_over_are_removed_whole(tmp_path: Path) -> None:
    for days in range(4):
        append(tmp_path, line("ann", f"day {days}", NOON + days * DAY_S))
    assert remove_days(tmp_path, NOON + 2 * DAY_S) == 2
    assert [path.name for path in log_files(tmp_path)] == [
        log_name(NOON + days * DAY_S) for days in (2, 3)
    ]
    assert remove_days(tmp_path / "none", NOON) == 0 and known_logs(tmp_path / "none") == []


def test_pictures_are_removed_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / PICTURES
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.png"):
        (folder / name).write_bytes(b"x")
    assert remove_pictures(tmp_path, ["a", "b", "gone"]) == 2
    assert [path.name for path in folder.iterdir()] == ["c.png"]
