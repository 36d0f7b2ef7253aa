import io
from collections.abc import Iterator

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from fastchat.serve.chat_io import (
    END_OF_MESSAGE,
    ProgrammaticChatIO,
    RichChatIO,
    SimpleChatIO,
    Tail,
    markdown,
)


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def screen(**options: int) -> Console:
    return Console(file=io.StringIO(), width=40, force_terminal=False, **options)  # type: ignore[arg-type]


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_enter_sends_what_was_typed(keyboard: PipeInput) -> None:
    console = screen()
    keyboard.send_text("hello\r")
    assert RichChatIO(console=console).ask("USER") == "hello"
    assert written(console) == "USER:\n"


def test_escape_enter_begins_a_line_where_a_message_may_have_several(keyboard: PipeInput) -> None:
    keyboard.send_text("one\x1b\rtwo\r")
    assert RichChatIO(multiline=True, console=screen()).ask("USER") == "one\ntwo"


def test_ctrl_d_ends_and_ctrl_c_interrupts_a_rich_prompt(keyboard: PipeInput) -> None:
    chat_io = RichChatIO(console=screen())
    keyboard.send_text("\x04")
    with pytest.raises(EOFError):
        chat_io.ask("USER")
    keyboard.send_text("\x03")
    with pytest.raises(KeyboardInterrupt):
        chat_io.ask("USER")


def test_the_mouse_is_used_only_when_asked_for(keyboard: PipeInput) -> None:
    assert RichChatIO(mouse=True, console=screen()).session.mouse_support is True
    assert RichChatIO(console=screen()).session.mouse_support is False


def test_a_rich_answer_ends_as_markdown(keyboard: PipeInput) -> None:
    console = screen()
    with RichChatIO(console=console).answer("MODEL") as show:
        for piece in ("- o", "ne\n- **two**", "\n\n```\nx = 1\n```"):
            show(piece)
    text = written(console)
    assert "MODEL:" in text
    assert " • one\n • two" in text
    assert "x = 1" in text
    assert "**" not in text


def test_what_people_typed_is_shown_as_they_typed_it(keyboard: PipeInput) -> None:
    console = screen()
    chat_io = RichChatIO(console=console)
    chat_io.show("USER", "[bold]1 * 2 * 3[/bold]")
    chat_io.notice("[red]saved[/red]")
    assert written(console) == "USER:\n[bold]1 * 2 * 3[/bold]\n\n[red]saved[/red]"


def test_single_line_breaks_stay_and_code_is_untouched() -> None:
    assert markdown("a\nb\n```\nc\n```").markup == "a  \nb  \n```\nc\n```"
    console = screen()
    console.print(markdown("a\nb"))
    assert written(console) == "a\nb"


def test_a_text_higher_than_the_terminal_is_followed_at_its_end() -> None:
    console = screen(height=4)
    console.print(Tail(markdown("\n".join(map(str, range(100))))))
    assert written(console).split() == ["97", "98", "99"]


def test_simple_asks_on_one_line_or_until_the_end_of_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert SimpleChatIO().ask("USER") == "one"
    assert SimpleChatIO(multiline=True).ask("USER") == "two"
    with pytest.raises(EOFError):
        SimpleChatIO(multiline=True).ask("USER")


def test_programmatic_messages_may_hold_lines_and_empty_lines() -> None:
    source = io.StringIO(f"a\n\nb{END_OF_MESSAGE}c{END_OF_MESSAGE}")
    target = io.StringIO()
    chat_io = ProgrammaticChatIO(source, target)
    assert [chat_io.ask("USER"), chat_io.ask("USER")] == ["a\n\nb", "c"]
    with chat_io.answer("ASSISTANT") as show:
        show("d")
        show("e")
    assert target.getvalue() == "[!OP:USER]: a\n\nb\n[!OP:USER]: c\n[!OP:ASSISTANT]: de\n"
