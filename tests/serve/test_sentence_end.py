from collections.abc import AsyncIterator, Sequence

import pytest

from fastchat.engine.base import Chunk, GenerationRequest, SamplingParams, Usage
from fastchat.engine.echo import EchoEngine
from fastchat.message import Message
from fastchat.serve.sentence_end import CLOSING_MARKS, to_sentence_end

END = 0


class ScriptedEngine(EchoEngine):
    """Writes its text, then ends it; where that is banned, it writes the next text instead."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = texts
        self.requests: list[GenerationRequest] = []

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids if i != END)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        prompt = self._prompt(request)
        written = prompt[prompt.rindex("assistant: ") + len("assistant: ") :]
        whole = "".join(self.texts)
        ends = [len("".join(self.texts[: i + 1])) for i in range(len(self.texts))]
        place, is_banned = len(written), END in request.sampling.logit_bias
        for n_tokens in range(1, (request.max_tokens or 0) + 1):
            if place == len(whole) or (place in ends and not is_banned):
                yield self._end("stop", (END,), "", n_tokens)
                return
            is_banned = False
            token = whole[place]
            place += 1
            if n_tokens == request.max_tokens:
                yield self._end("length", (ord(token),), token, n_tokens)
                return
            yield Chunk(text=token, token_ids=(ord(token),))

    def _end(self, reason: str, ids: tuple[int, ...], text: str, n_tokens: int) -> Chunk:
        usage = Usage(prompt_tokens=1, completion_tokens=n_tokens)
        return Chunk(text=text, token_ids=ids, finish_reason=reason, usage=usage)  # type: ignore[arg-type]


async def written(engine: ScriptedEngine, max_tokens: int = 100) -> tuple[str, str | None]:
    request = GenerationRequest(
        request_id="x",
        messages=(Message(role="user", text="?"),),
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=0.0),
    )
    chunks = [chunk async for chunk in to_sentence_end(engine, request)]
    assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    return "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason


@pytest.mark.parametrize("mark", CLOSING_MARKS)
async def test_an_answer_that_closes_its_sentence_is_left_alone(mark: str) -> None:
    engine = ScriptedEngine(f"Yes{mark}", "never")
    assert await written(engine) == (f"Yes{mark}", "stop")
    assert len(engine.requests) == 1


async def test_an_answer_goes_on_until_its_sentence_is_closed() -> None:
    engine = ScriptedEngine("Yes", " and", " no.", "never")
    assert await written(engine) == ("Yes and no.", "stop")


async def test_only_one_token_is_chosen_without_the_end() -> None:
    engine = ScriptedEngine("Yes", " and no.")
    await written(engine)
    biased = [r for r in engine.requests if END in r.sampling.logit_bias]
    assert [r.max_tokens for r in biased] == [1]


@pytest.mark.parametrize("limit", range(1, 11))
async def test_the_limit_of_tokens_holds_over_all_pieces(limit: int) -> None:
    engine = ScriptedEngine("Yes", " and", " no")
    assert await written(engine, max_tokens=limit) == ("Yes and no"[:limit], "length")
