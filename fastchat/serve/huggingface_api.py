"""Asks a model one question, in this process: the shortest use of the engine from Python.

python3 -m fastchat.serve.huggingface_api --model-path lmsys/vicuna-7b-v1.5 --message "Hello!"
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from fastchat import logs
from fastchat.engine.base import GenerationRequest, SamplingParams
from fastchat.engine.choose import EngineSettings
from fastchat.message import Message
from fastchat.serve.cli import (
    NamedModelSettings,
    check_sampling,
    conversation_for,
    default_penalty,
    room,
    write_reply,
)
from fastchat.serve.model_worker import open_model
from fastchat.serve.published_formats import FormatFlags
from fastchat.settings import Group, run_command


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSettings:
    """Ask a model one question and print both lines of the conversation."""

    model: Group[NamedModelSettings] = NamedModelSettings()
    formats: Group[FormatFlags] = FormatFlags()
    temperature: float = 0.7
    """Below 1e-5 the most probable token is always taken."""
    repetition_penalty: float | None = None
    """Above 1 discourages repetition; the default is the model family's, mostly 1."""
    max_new_tokens: int = 1024
    """Tokens of the answer at most."""
    message: str = "Hello! Who are you?"
    """The question."""
    debug: bool = False
    """Log at DEBUG level and show tracebacks."""

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.repetition_penalty, max_tokens=self.max_new_tokens)


async def answer(settings: QuestionSettings) -> None:
    """Loads the model, asks, and prints a line for each role.

    Raises:
        FastChatError: the model cannot be loaded, or did not answer.
    """
    engine = await open_model(settings.model, EngineSettings(max_running=1))
    try:
        messages = (Message(role="user", text=settings.message),)
        request = GenerationRequest(
            request_id="question",
            messages=messages,
            max_tokens=room(engine, messages, wanted=settings.max_new_tokens),
            sampling=SamplingParams(
                temperature=settings.temperature,
                repetition_penalty=settings.repetition_penalty
                or default_penalty(settings.model.model_path),
            ),
        )
        written = await write_reply(engine.generate(request), lambda piece: None)
        user, assistant = conversation_for(engine).roles[:2]
        print(f"{user}: {settings.message}")
        print(f"{assistant}: {written.text}")
    finally:
        await engine.stop(0.0)


def run(settings: QuestionSettings) -> None:
    settings.formats.refuse()
    if settings.debug:
        logs.setup(debug=True)
    asyncio.run(answer(settings))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(
        QuestionSettings, run, argv, prog="python3 -m fastchat.serve.huggingface_api"
    )


if __name__ == "__main__":
    sys.exit(main())
