"""How a terminal chat reads and writes: plain lines, rich, or marked for another program.

A style knows nothing of models or conversations; it is given names and pieces of text.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown

Style = Literal["simple", "rich", "programmatic"]
Show = Callable[[str], None]

END_OF_MESSAGE = " __END_OF_A_MESSAGE_47582648__\n"
COMMANDS = ("!!exit", "!!reset", "!!remove", "!!regen", "!!save", "!!load")


class ChatIO(Protocol):
    """One style of reading and writing."""

    def ask(self, role: str) -> str:
        """The next message of the person.

        Raises:
            EOFError: there will be none.
        """
        ...

    def answer(self, role: str) -> contextlib.AbstractContextManager[Show]:
        """Gives a function that shows the next piece of an answer at once."""
        ...

    def show(self, role: str, text: str) -> None:
        """A message that was written before."""
        ...

    def notice(self, text: str) -> None:
        """Something the program itself has to say."""
        ...


def open_chat_io(style: Style, *, multiline: bool, mouse: bool) -> ChatIO:
    """The style of this name, on the process's own streams."""
    # A stray byte in a pipe must not end a chat.
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    match style:
        case "simple":
            return SimpleChatIO(multiline=multiline)
        case "rich":
            return RichChatIO(multiline=multiline, mouse=mouse)
        case "programmatic":
            return ProgrammaticChatIO(sys.stdin, sys.stdout)


class SimpleChatIO:
    """Plain lines; works everywhere and through pipes."""

    def __init__(self, *, multiline: bool = False) -> None:
        self.multiline = multiline
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (its import gives `input` line editing and history)

    def ask(self, role: str) -> str:
        if not self.multiline:
            return input(f"{role}: ")
        lines: list[str] = []
        prompt = f"{role} [Ctrl-D on an empty line sends]: "
        with contextlib.suppress(EOFError):
            while True:
                lines.append(input(prompt))
                prompt = ""
        if not lines:
            raise EOFError
        print()
        return "\n".join(lines)

    @contextlib.contextmanager
    def answer(self, role: str) -> Iterator[Show]:
        print(f"{role}: ", end="", flush=True)
        try:
            yield lambda piece: print(piece, end="", flush=True)
        finally:
            print(flush=True)

    def show(self, role: str, text: str) -> None:
        print(f"{role}: {text}", flush=True)

    def notice(self, text: str) -> None:
        print(text, flush=True)


class ProgrammaticChatIO:
    """For another program: a message ends with `END_OF_MESSAGE`, roles stand in `[!OP:...]`."""

    def __init__(self, source: TextIO, target: TextIO) -> None:
        self.source = source
        self.target = target

    def ask(self, role: str) -> str:
        text = ""
        while not text.endswith(END_OF_MESSAGE):
            line = self.source.readline()
            if not line:
                raise EOFError
            text += line
        text = text.removesuffix(END_OF_MESSAGE)
        self.show(role, text)
        return text

    @contextlib.contextmanager
    def answer(self, role: str) -> Iterator[Show]:
        self._write(f"[!OP:{role}]: ")
        try:
            yield self._write
        finally:
            self._write("\n")

    def show(self, role: str, text: str) -> None:
        self._write(f"[!OP:{role}]: {text}\n")

    def notice(self, text: str) -> None:
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        self.target.write(text)
        self.target.flush()


class RichChatIO:
    """Colours, Markdown that grows as it is written, a history, completion of the commands."""

    def __init__(
        self, *, multiline: bool = False, mouse: bool = False, console: "Console | None" = None
    ) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings
        from rich.console import Console

        self.console = console or Console()
        keys = KeyBindings()
        if multiline:
            # A field of several lines takes Enter for a newline; here Enter sends, as it does
            # in the other styles, and Escape Enter is the newline.
            keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
            keys.add("escape", "enter")(lambda event: event.current_buffer.newline())
        self.session: PromptSession[str] = PromptSession(
            history=InMemoryHistory(),
            auto_suggest=AutoSuggestFromHistory(),
            completer=WordCompleter(list(COMMANDS), sentence=True),
            key_bindings=keys,
            multiline=multiline,
            mouse_support=mouse,
        )

    def ask(self, role: str) -> str:
        self._title(role)
        text = self.session.prompt("")
        self.console.print()
        return text

    @contextlib.contextmanager
    def answer(self, role: str) -> Iterator[Show]:
        from rich.live import Live

        self._title(role)
        pieces: list[str] = []
        # The growing text is shown by its tail, then once more as a whole: a terminal cannot
        # redraw what has scrolled away.
        with Live(console=self.console, refresh_per_second=4, transient=True) as live:

            def show(piece: str) -> None:
                pieces.append(piece)
                live.update(Tail(markdown("".join(pieces))))

            try:
                yield show
            finally:
                live.update("")
        self.console.print(markdown("".join(pieces)))
        self.console.print()

    def show(self, role: str, text: str) -> None:
        from rich.text import Text

        self._title(role)
        self.console.print(Text(text))
        self.console.print()

    def notice(self, text: str) -> None:
        self.console.print(text, style="dim", markup=False, highlight=False)

    def _title(self, role: str) -> None:
        from rich.text import Text

        self.console.print(Text(f"{role}:", style="bold"))


def markdown(text: str) -> "Markdown":
    """`text` as Markdown in which single line breaks stay, as people mean them."""
    from rich.markdown import Markdown

    lines: list[str] = []
    in_code = False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            in_code = not in_code
            lines.append(line)
        else:
            lines.append(line if in_code else f"{line}  ")
    return Markdown("\n".join(lines))


class Tail:
    """The last lines of something that is longer than the terminal is high."""

    def __init__(self, content: "Markdown") -> None:
        self.content = content

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import SegmentLines

        lines = console.render_lines(self.content, options, pad=False)
        yield SegmentLines(lines[-max(1, console.height - 1) :], new_lines=True)
