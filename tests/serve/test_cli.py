import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastchat.conversation import Conversation, get_conv_template
from fastchat.engine.base import GenerationRequest
from fastchat.engine.echo import EchoEngine, EchoOptions
from fastchat.errors import ContextOverflowError, ModelError
from fastchat.message import Message
from fastchat.serve.chat_io import END_OF_MESSAGE, ProgrammaticChatIO, Show
from fastchat.serve.cli import Chat, main, room, write_reply


class Script:
    """A person who says the given lines, and a record of all that the chat showed."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self.lines = list(lines)
        self.shown: list[tuple[str, str]] = []
        self.notices: list[str] = []

    def ask(self, role: str) -> str:
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, str):
            return line
        raise line

    def answer(self, role: str) -> "Answer":
        return Answer(self, role)

    def show(self, role: str, text: str) -> None:
        self.shown.append((role, text))

    def notice(self, text: str) -> None:
        self.notices.append(text)


class Answer:
    def __init__(self, script: Script, role: str) -> None:
        self.script, self.role, self.pieces = script, role, []

    def __enter__(self) -> Show:
        return self.pieces.append

    def __exit__(self, *_: object) -> None:
        self.script.shown.append((self.role, "".join(self.pieces)))


def count(messages: Sequence[Message], show: Show) -> str:
    """An answer that tells how many turns the model was given."""
    text = f"{len(messages)}: {messages[-1].text}"
    show(text)
    return text


def chat(
    *lines: str | type[BaseException],
    reply: Callable[[Sequence[Message], Show], str] = count,
    template: str = "vicuna_v1.1",
    **options: Any,
) -> tuple[Chat, Script]:
    script = Script(*lines)
    result = Chat(script, lambda: get_conv_template(template), reply=reply, **options)
    result.run()
    return result, script


def turns(conversation: Conversation) -> list[str]:
    return [text for _, text in conversation.messages[conversation.offset :]]


def test_each_question_is_asked_with_all_turns_before_it() -> None:
    session, script = chat("one", "two")
    assert turns(session.conversation) == ["one", "1: one", "two", "3: two"]
    assert script.shown == [("ASSISTANT", "1: one"), ("ASSISTANT", "3: two")]


@pytest.mark.parametrize("last", ["!!exit", "", EOFError, KeyboardInterrupt])
def test_exit_an_empty_line_the_end_of_input_and_ctrl_c_leave(last: Any) -> None:
    _, script = chat("one", last, "never")
    assert script.lines in (["never"], [])
    assert script.notices == ["exit..."]
    assert len(script.shown) == 1


def test_an_empty_message_leaves_no_multiline_chat() -> None:
    session, _ = chat("", "one", multiline=True)
    assert turns(session.conversation) == ["one", "1: one"]


def test_without_history_each_message_starts_anew() -> None:
    session, _ = chat("one", "two", no_history=True)
    assert turns(session.conversation) == ["two", "1: two"]


def test_reset_forgets_everything() -> None:
    session, _ = chat("one", "!!reset", "two")
    assert turns(session.conversation) == ["two", "1: two"]


def test_remove_drops_the_last_turn_and_shows_the_rest() -> None:
    session, script = chat("one", "two", "!!remove")
    assert turns(session.conversation) == ["one", "1: one"]
    assert script.shown[-2:] == [("USER", "one"), ("ASSISTANT", "1: one")]


@pytest.mark.parametrize("command", ["!!remove", "!!regen"])
@pytest.mark.parametrize("template", ["vicuna_v1.1", "one_shot"])
def test_where_there_is_no_turn_a_notice_says_so(command: str, template: str) -> None:
    session, script = chat(command, template=template)
    assert script.notices[0].startswith("nothing to re")
    assert turns(session.conversation) == []
    assert len(session.conversation.messages) == session.conversation.offset


def test_regen_asks_the_last_question_again() -> None:
    session, script = chat("one", "two", "!!regen")
    assert turns(session.conversation) == ["one", "1: one", "two", "3: two"]
    assert script.shown[-2:] == [("USER", "two"), ("ASSISTANT", "3: two")]


def test_a_stopped_answer_takes_its_question_with_it() -> None:
    def reply(messages: Sequence[Message], show: Show) -> str:
        if messages[-1].text == "long":
            show("half")
            raise KeyboardInterrupt
        return count(messages, show)

    session, script = chat("one", "long", "two", reply=reply)
    assert turns(session.conversation) == ["one", "1: one", "two", "3: two"]
    assert ("ASSISTANT", "half") in script.shown


@pytest.mark.parametrize("error", [ContextOverflowError("Too long."), ModelError("It broke.")])
def test_a_failed_answer_is_a_notice_and_the_chat_goes_on(error: Exception) -> None:
    def reply(messages: Sequence[Message], show: Show) -> str:
        if messages[-1].text == "bad":
            raise error
        return count(messages, show)

    session, script = chat("bad", "one", reply=reply)
    assert script.notices[0] == f"{error} The question is dropped."
    assert turns(session.conversation) == ["one", "1: one"]


def test_a_saved_conversation_has_the_published_form_and_loads_back(tmp_path: Path) -> None:
    path = tmp_path / "talk"
    session, _ = chat("one", f"!!save {path}", template="one_shot")
    record = json.loads((tmp_path / "talk.json").read_text("utf-8"))
    assert set(record) == {"template_name", "system_message", "roles", "messages", "offset"}
    assert record["template_name"] == "one_shot"
    assert record["messages"][record["offset"] :] == [["Human", "one"], ["Assistant", "1: one"]]

    again, script = chat(f"!!load {path}", "two", template="one_shot")
    assert turns(again.conversation) == ["one", "1: one", "two", "3: two"]
    assert script.shown[:2] == [("Human", "one"), ("Assistant", "1: one")]
    assert session.conversation.dict() == record


def test_a_conversation_of_another_model_goes_on_in_this_models_template(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    chat("one", f"!!save {path}", template="one_shot")
    session, script = chat(f"!!load {path}")
    assert session.conversation.name == "vicuna_v1.1"
    assert session.conversation.messages == [["USER", "one"], ["ASSISTANT", "1: one"]]
    assert "written for one_shot; vicuna_v1.1 is used" in script.notices[0]


BROKEN = {
    "no JSON": "{",
    "no object": "[]",
    "a field missing": '{"template_name": "one_shot"}',
    "a text that is none": (
        '{"template_name": "x", "system_message": "", "roles": ["a", "b"], "offset": 0,'
        ' "messages": [["a", 1], ["b", "x"]]}'
    ),
    "an unknown role": (
        '{"template_name": "x", "system_message": "", "roles": ["a", "b"], "offset": 0,'
        ' "messages": [["c", "x"], ["b", "x"]]}'
    ),
    "an open question": (
        '{"template_name": "x", "system_message": "", "roles": ["a", "b"], "offset": 0,'
        ' "messages": [["a", "x"]]}'
    ),
    "deep nesting": "[" * 100_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_a_notice_and_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(text)
    session, script = chat("one", f"!!load {path}")
    assert script.notices[0] == f"{path} is not a conversation saved by !!save"
    assert turns(session.conversation) == ["one", "1: one"]


def test_bytes_that_are_no_text_are_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(b"\xff\xfe\x00")
    _, script = chat(f"!!load {path}")
    assert script.notices[0] == f"{path} is not a conversation saved by !!save"


def test_files_that_cannot_be_read_or_written_are_notices(tmp_path: Path) -> None:
    _, script = chat(f"!!load {tmp_path}/none", f"!!save {tmp_path}/none/x", "!!save", "!!load")
    assert script.notices[:4] == [
        f"{tmp_path}/none.json cannot be read: No such file or directory",
        f"{tmp_path}/none/x.json cannot be written: No such file or directory",
        "usage: !!save FILE",
        "usage: !!load FILE",
    ]


async def test_a_text_without_blanks_is_shown_character_by_character() -> None:
    pieces: list[str] = []
    request = GenerationRequest(request_id="x", messages=(Message(role="user", text="你好世界"),))
    written = await write_reply(EchoEngine().generate(request), pieces.append)
    assert pieces == ["你", "好", "世", "界"]
    assert (written.text, written.n_tokens) == ("你好世界", 4)


async def test_leaving_an_answer_ends_it_in_the_engine() -> None:
    engine = EchoEngine(EchoOptions(delay_ms=5))
    request = GenerationRequest(request_id="x", messages=(Message(role="user", text="x" * 1000),))
    writing = asyncio.create_task(write_reply(engine.generate(request), lambda piece: None))
    await asyncio.sleep(0.05)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert engine.aborted_total == 1
    assert engine.stats().running == 0


def test_an_answer_gets_what_the_context_has_left() -> None:
    engine = EchoEngine(EchoOptions(context=100))
    messages = [Message(role="user", text="x" * 50)]
    n_prompt = len(engine.render(messages))
    assert room(engine, messages, wanted=10) == 10
    assert room(engine, messages, wanted=512) == 100 - n_prompt
    assert room(engine, messages * 2, wanted=512) == 1


@pytest.mark.slow
def test_a_conversation_that_fills_the_context_is_refused_and_can_be_reset() -> None:
    done = run_cli("--context-len", "60", said=f"{'x' * 30}\nhello\n!!reset\nagain\n")
    assert done.returncode == 0
    assert "Shorten the prompt. The question is dropped." in done.stdout
    assert "Assistant: again" in done.stdout


def run_cli(*flags: str, said: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastchat.serve.cli", "--model-path", "echo:", *flags]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_a_chat_through_a_pipe_ends_with_status_0() -> None:
    done = run_cli(said="hi there\n!!exit\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Human: Assistant: hi there\nHuman: exit...\n"


@pytest.mark.slow
def test_the_programmatic_style_has_its_published_marks() -> None:
    said = f"two\nlines{END_OF_MESSAGE}!!exit{END_OF_MESSAGE}"
    done = run_cli("--style", "programmatic", said=said)
    assert done.returncode == 0
    assert done.stdout == (
        "[!OP:Human]: two\nlines\n[!OP:Assistant]: two\nlines\n[!OP:Human]: !!exit\nexit...\n"
    )


def test_the_end_of_input_without_the_mark_ends_a_programmatic_chat() -> None:
    chat_io = ProgrammaticChatIO(io.StringIO("no mark"), io.StringIO())
    with pytest.raises(EOFError):
        chat_io.ask("USER")


@pytest.mark.slow
def test_several_lines_are_one_message_in_multiline() -> None:
    done = run_cli("--multiline", said="one\n\ntwo\n")
    assert done.returncode == 0
    assert "Assistant: one\n\ntwo\n" in done.stdout


@pytest.mark.slow
def test_the_rich_style_writes_markdown_through_a_pipe() -> None:
    done = run_cli("--style", "rich", said="some **bold** words\n!!exit\n")
    assert done.returncode == 0
    assert re.search(r"Assistant:\nsome bold words", done.stdout)


@pytest.mark.slow
def test_debug_prints_the_published_record() -> None:
    done = run_cli("--debug", "--conv-system-msg", "Be brief.", said="hi\n!!exit\n")
    assert done.returncode == 0
    for key in ("conv_template", "prompt", "outputs", "speed (token/s)"):
        assert repr(key) in done.stdout
    assert "system: Be brief." in done.stdout


@pytest.mark.slow
def test_bytes_that_are_no_text_do_not_end_the_chat() -> None:
    command = [sys.executable, "-m", "fastchat.serve.cli", "--model-path", "echo:"]
    done = subprocess.run(command, input=b"a\xffb\n!!exit\n", capture_output=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Assistant: a\ufffdb".encode() in done.stdout


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    command = [sys.executable, "-m", "fastchat.serve.cli", "--model-path", "echo:delay_ms=100"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"x" * 2000 + b"\n")
        process.stdin.flush()
        seen = b""
        while b"Assistant: xx" not in seen:
            byte = os.read(process.stdout.fileno(), 1)
            assert byte, "the chat ended before it answered"
            seen += byte
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(b"again\n!!exit\n", timeout=300)
    assert (process.returncode, err) == (0, b"")
    assert b"stopped; the question is dropped" in out
    assert b"Assistant: again" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens 0: must be 1 or more."),
        (["--temperature", "-1"], "--temperature -1.0: must be from 0 to 2."),
        (["--repetition_penalty", "0"], "--repetition_penalty 0.0: must be above 0."),
        (["--gptq-wbits", "4"], "--gptq-wbits is no longer needed"),
    ],
)
def test_a_bad_value_is_one_line_and_status_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model-path", "echo:", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
