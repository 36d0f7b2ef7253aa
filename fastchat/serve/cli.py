"""Chats with a model in the terminal; the model runs in this process.

    python3 -m fastchat.serve.cli --model-path lmsys/vicuna-7b-v1.5

In the chat: `!!exit` (or an empty line), `!!reset`, `!!remove`, `!!regen`, `!!save FILE`,
`!!load FILE`. Ctrl-C stops an answer and drops its question.
"""

import asyncio
import contextlib
import json
import pprint
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from fastchat import logs
from fastchat.conversation import Conversation, get_conv_template
from fastchat.engine.base import Chunk, Engine, GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings
from fastchat.errors import DataError, FastChatError, OutOfRangeError
from fastchat.families.registry import registry
from fastchat.message import Message
from fastchat.model.load import ModelSettings
from fastchat.serve.chat_io import ChatIO, Show, Style, open_chat_io
from fastchat.serve.model_worker import open_model
from fastchat.serve.published_formats import FormatFlags
from fastchat.serve.sentence_end import to_sentence_end
from fastchat.settings import Group, NoSwitch, alias, run_command

PROG = "python3 -m fastchat.serve.cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModelSettings(ModelSettings):
    """Which model, under all the flags that ever named it here."""

    model_path: Annotated[str, alias("--model", "--model-name")] = "vicuna-tiny"
    """Folder or hub id; `vicuna-tiny` is the model that ships in the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CliSettings:
    """Chat with a model in the terminal."""

    model: Group[NamedModelSettings] = NamedModelSettings()
    formats: Group[FormatFlags] = FormatFlags()
    conv_system_msg: str | None = None
    """System message instead of the template's own."""
    temperature: float = 0.7
    """Below 1e-5 the most probable token is always taken."""
    repetition_penalty: float | None = None
    """Above 1 discourages repetition; the default is the model family's, mostly 1."""
    max_new_tokens: int = 512
    """Tokens of an answer at most."""
    no_history: NoSwitch = False
    """Each message starts a new conversation."""
    style: Style = "simple"
    """How to read and write."""
    multiline: bool = False
    """A message may have several lines. simple: Ctrl-D on an empty line sends it. rich: Escape,
    then Enter begins a new line."""
    mouse: bool = False
    """rich: the mouse places the cursor."""
    judge_sent_end: bool = False
    """An answer does not end in the middle of a sentence."""
    debug: bool = False
    """Show the prompt and the speed after each answer, and tracebacks."""

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.repetition_penalty, max_tokens=self.max_new_tokens)


Reply = Callable[[Sequence[Message], Show], str]
"""Shows the answer to a conversation piece by piece and returns it."""


class Chat:
    """One conversation in the terminal: turns, and the commands about them."""

    def __init__(
        self,
        io: ChatIO,
        fresh: Callable[[], Conversation],
        *,
        reply: Reply,
        no_history: bool = False,
        multiline: bool = False,
    ) -> None:
        self.io = io
        self.fresh = fresh
        self.reply = reply
        self.no_history = no_history
        self.multiline = multiline
        self.conversation = fresh()
        self.commands: dict[str, Callable[[str], None]] = {
            "!!reset": self.reset,
            "!!remove": self.remove,
            "!!regen": self.regenerate,
            "!!save": self.save,
            "!!load": self.load,
        }

    @property
    def roles(self) -> Sequence[str]:
        """What the person and the model are called."""
        return self.conversation.roles

    def run(self) -> None:
        """Asks and answers until the person leaves."""
        while True:
            try:
                text = self.io.ask(self.roles[0])
            except (EOFError, KeyboardInterrupt):
                text = "!!exit"
            name, _, argument = text.strip().partition(" ")
            if name == "!!exit" or (not name and not self.multiline):
                self.io.notice("exit...")
                return
            if name in self.commands:
                self.commands[name](argument.strip())
            elif name:
                if self.no_history:
                    self.conversation = self.fresh()
                self.ask(text)

    def ask(self, question: str) -> None:
        """One turn. Stopped or failed, it leaves the conversation as it was before."""
        messages = self.conversation.messages
        before = len(messages)
        self.conversation.append_message(self.roles[0], question)
        try:
            with self.io.answer(self.roles[1]) as show:
                answer = self.reply(to_send(self.conversation), show)
        except KeyboardInterrupt:
            del messages[before:]
            self.io.notice("stopped; the question is dropped")
            self.reprint()
        except FastChatError as error:
            del messages[before:]
            self.io.notice(f"{error.message} The question is dropped.")
        else:
            self.conversation.append_message(self.roles[1], answer)

    def reset(self, _: str) -> None:
        self.conversation = self.fresh()
        self.io.notice("new conversation")

    def remove(self, _: str) -> None:
        if self.drop_last_turn() is None:
            self.io.notice("nothing to remove")
        else:
            self.reprint()

    def regenerate(self, _: str) -> None:
        question = self.drop_last_turn()
        if question is None:
            self.io.notice("nothing to regenerate")
            return
        self.reprint()
        self.io.show(self.roles[0], question)
        self.ask(question)

    def drop_last_turn(self) -> str | None:
        """The question of the last turn, which is gone then; None when there is no turn."""
        messages = self.conversation.messages
        start = max(len(messages) - 2, self.conversation.offset)
        if start >= len(messages):
            return None
        question = messages[start][1]
        del messages[start:]
        return question

    def save(self, argument: str) -> None:
        if not argument:
            self.io.notice("usage: !!save FILE")
            return
        path = Path(argument)
        path = path if path.suffix else path.with_suffix(".json")
        text = json.dumps(self.conversation.dict(), ensure_ascii=False, indent=2)
        try:
            path.write_text(text + "\n", "utf-8")
        except OSError as error:
            self.io.notice(f"{path} cannot be written: {error.strerror}")
        else:
            self.io.notice(f"saved to {path}")

    def load(self, argument: str) -> None:
        if not argument:
            self.io.notice("usage: !!load FILE")
            return
        path = Path(argument)
        if not path.exists():
            path = path.with_name(f"{path.name}.json")
        try:
            self.conversation, note = loaded(path, self.fresh())
        except DataError as error:
            self.io.notice(error.message)
            return
        self.io.notice(f"loaded from {path}{note}")
        self.reprint()

    def reprint(self) -> None:
        """Shows the conversation as it now is."""
        for role, text in self.conversation.messages[self.conversation.offset :]:
            if role == self.roles[0]:
                self.io.show(role, text)
            else:
                with self.io.answer(role) as show:
                    show(text)


def to_send(conversation: Conversation) -> list[Message]:
    """The turns for the engine; the system message only where it is not the template's own."""
    messages = conversation.to_messages()
    if conversation.system_message == conversation.template.system_message:
        messages = [message for message in messages if message.role != "system"]
    return messages


def loaded(path: Path, fresh: Conversation) -> tuple[Conversation, str]:
    """The saved conversation in the template of `fresh`, and what to tell about it.

    A conversation that was had with another model goes on in this model's template.

    Raises:
        DataError: the file is missing or is not a saved conversation.
    """
    try:
        record: Any = json.loads(path.read_text("utf-8"))
        name, system = record["template_name"], record["system_message"]
        turns = record["messages"][record["offset"] :]
        speakers = [list(record["roles"]).index(role) for role, _ in turns]
        texts = [text for _, text in turns]
        if not all(isinstance(value, str) for value in (name, system, *texts)):
            raise TypeError
        if speakers != [0, 1] * (len(turns) // 2):
            raise ValueError
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DataError(f"{path} is not a conversation saved by !!save") from None
    if name == fresh.name:
        fresh.set_system_message(system)
    for speaker, text in zip(speakers, texts, strict=True):
        fresh.append_message(fresh.roles[speaker], text)
    note = "" if name == fresh.name else f" (written for {name}; {fresh.name} is used)"
    return fresh, note


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An answer, and how fast it came."""

    text: str
    n_tokens: int
    seconds: float


async def write_reply(chunks: AsyncIterator[Chunk], show: Show) -> Written:
    """The answer, shown as it comes.

    Raises:
        FastChatError: the request was refused, or the engine failed.
    """
    text, n_tokens, began = "", 0, time.perf_counter()
    async with contextlib.aclosing(cast(AsyncGenerator[Chunk, None], chunks)):
        async for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error
            piece = chunk.text if text else chunk.text.lstrip()
            if piece:
                text += piece
                show(piece)
            n_tokens += len(chunk.token_ids)
    return Written(text=text.rstrip(), n_tokens=n_tokens, seconds=time.perf_counter() - began)


def check_sampling(temperature: float, penalty: float | None, *, max_tokens: int) -> None:
    """
    Raises:
        OutOfRangeError: a value that no answer could be written with.
    """
    if max_tokens < 1:
        raise OutOfRangeError(f"--max-new-tokens {max_tokens}: must be 1 or more.")
    if not 0 <= temperature <= 2:
        raise OutOfRangeError(f"--temperature {temperature}: must be from 0 to 2.")
    if penalty is not None and not penalty > 0:
        raise OutOfRangeError(f"--repetition_penalty {penalty}: must be above 0.")


def default_penalty(model_path: str) -> float:
    """The repetition penalty of the model's family."""
    return registry().recognise(model_path).family.generation.get("repetition_penalty", 1.0)


def conversation_for(engine: Engine) -> Conversation:
    """An empty conversation in this model's format.

    A model that is prompted by its tokenizer's own chat template has the roles of its family.
    """
    known = registry()
    name = engine.info.template
    if name not in known.template_names:
        name = known.recognise(engine.info.model_path).serving_template
    return get_conv_template(name)


def chat(settings: CliSettings) -> int:
    """Loads the model and chats until the person leaves."""
    settings.formats.refuse()
    if settings.debug:
        logs.setup(debug=True)
    io = open_chat_io(settings.style, multiline=settings.multiline, mouse=settings.mouse)
    with asyncio.Runner() as runner:
        engine = runner.run(open_model(settings.model, EngineSettings(max_running=1)))
        sampling = SamplingParams(
            temperature=settings.temperature,
            repetition_penalty=settings.repetition_penalty
            or default_penalty(settings.model.model_path),
        )

        def reply(messages: Sequence[Message], show: Show) -> str:
            request = GenerationRequest(
                request_id="chat",
                messages=tuple(messages),
                max_tokens=room(engine, messages, wanted=settings.max_new_tokens),
                sampling=sampling,
            )
            chunks = (
                to_sentence_end(engine, request)
                if settings.judge_sent_end
                else engine.generate(request)
            )
            # Ctrl-C cancels this run, which closes the engine's stream, and comes out of it
            # as KeyboardInterrupt.
            written = runner.run(write_reply(chunks, show))
            if settings.debug:
                io.notice(debug_text(engine, messages, written))
            return written.text

        def fresh() -> Conversation:
            conversation = conversation_for(engine)
            if settings.conv_system_msg is not None:
                conversation.set_system_message(settings.conv_system_msg)
            return conversation

        try:
            Chat(
                io,
                fresh,
                reply=reply,
                no_history=settings.no_history,
                multiline=settings.multiline,
            ).run()
        finally:
            runner.run(engine.stop(0.0))
    return 0


def room(engine: Engine, messages: Sequence[Message], *, wanted: int) -> int:
    """Tokens for the answer: as many as wanted, or what the context has left beside the prompt.

    At least one, so that a conversation which fills the context is refused by the engine.
    """
    n_prompt = len(engine.tokenize(engine.render(messages)))
    return max(1, min(wanted, engine.info.context_length - n_prompt))


def debug_text(engine: Engine, messages: Sequence[Message], written: Written) -> str:
    """The published record of one turn."""
    record = {
        "conv_template": engine.info.template,
        "prompt": engine.render(messages),
        "outputs": written.text,
        "speed (token/s)": round(written.n_tokens / max(written.seconds, 1e-9), 2),
    }
    return "\n" + pprint.pformat(record, sort_dicts=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(CliSettings, chat, argv, prog=PROG)


if __name__ == "__main__":
    sys.exit(main())
