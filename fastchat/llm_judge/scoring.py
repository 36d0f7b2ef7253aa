"""Rules that score an answer without a judge: exact match, pattern, JSON, tests of a program."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fastchat.errors import DataError
from fastchat.llm_judge.code_runs import CodeResult, Limits, program_of, run_tests

PATTERN_S = 5.0
"""How long a pattern may take on one answer."""
_FENCE = re.compile(r"\A```[ \t]*(?:json)?[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """1 for right, 0 for wrong, and why."""

    score: float
    reason: str
    note: str = ""
    """What a reader of all the scores should know."""


class Rule(BaseModel):
    """How an answer is scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def hash(self, reference: str) -> str:
        """What changes when an answer would be scored otherwise."""
        told = orjson.dumps([self.model_dump(mode="json"), reference])
        return hashlib.sha256(told).hexdigest()[:16]


class Exact(Rule):
    """The answer, or what `extract` finds in it, is the reference."""

    kind: Literal["exact"]
    ignore_case: bool = False
    ignore_punctuation: bool = False
    extract: str | None = None
    """Pattern whose first group, or whole last match, is compared in place of the answer."""

    _is_pattern = field_validator("extract")(lambda value: _checked(value))

    async def score(self, answer: str, reference: str) -> Scored:
        found = _found(self.extract, answer) if self.extract else answer
        if found is None:
            return Scored(score=0.0, reason=f"{self.extract} finds nothing in the answer")
        # A reference may hold several right answers, one a line.
        wanted = [self._plain(line) for line in reference.splitlines() if line.strip()]
        if self._plain(found) in [*wanted, self._plain(reference)]:
            return Scored(score=1.0, reason="the answer is the reference")
        shown = found if len(found) <= 200 else f"{found[:200]}…"
        return Scored(score=0.0, reason=f"expected {' or '.join(wanted)}, found {shown!r}")

    def _plain(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split())
        if self.ignore_punctuation:
            kept = [c for c in text if not unicodedata.category(c).startswith("P")]
            text = " ".join("".join(kept).split())
        return text.casefold() if self.ignore_case else text


class Pattern(Rule):
    """A pattern is found in the answer."""

    kind: Literal["regex"]
    pattern: str
    full: bool = False
    """The pattern must be the whole answer."""
    absent: bool = False
    """The pattern must not be found."""

    _is_pattern = field_validator("pattern")(lambda value: _checked(value))

    async def score(self, answer: str, reference: str) -> Scored:
        import regex

        compiled = regex.compile(self.pattern)
        look = compiled.fullmatch if self.full else compiled.search
        try:
            is_found = look(answer.strip() if self.full else answer, timeout=PATTERN_S) is not None
        except TimeoutError:
            return Scored(score=0.0, reason=f"the pattern took longer than {PATTERN_S:g} s")
        word = "found" if is_found else "not found"
        return Scored(score=float(is_found != self.absent), reason=f"{self.pattern} is {word}")


class Json(Rule):
    """The answer is JSON, and follows a schema where there is one."""

    kind: Literal["json"]
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    fenced: bool = True
    """The JSON may stand in a block of code."""

    @field_validator("json_schema")
    @classmethod
    def _is_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        import jsonschema

        if value is not None:
            try:
                jsonschema.Draft202012Validator.check_schema(value)
            except jsonschema.SchemaError as error:
                raise ValueError(f"no JSON schema: {error.message}") from None
        return value

    async def score(self, answer: str, reference: str) -> Scored:
        import jsonschema

        text = answer.strip()
        fence = _FENCE.match(text) if self.fenced else None
        try:
            value = orjson.loads(fence[1] if fence else text)
        except orjson.JSONDecodeError as error:
            return Scored(score=0.0, reason=f"no JSON: {error}")
        if self.json_schema is not None:
            fault = jsonschema.Draft202012Validator(self.json_schema).iter_errors(value)
            if first := next(fault, None):
                place = "/".join(map(str, first.absolute_path)) or "the whole"
                return Scored(score=0.0, reason=f"{place}: {first.message[:200]}")
        if reference.strip() and value != _json(reference):
            return Scored(score=0.0, reason="valid JSON, but not that of the reference")
        return Scored(score=1.0, reason="valid JSON")


class Code(Rule):
    """The program in the answer passes tests, in a process of its own."""

    kind: Literal["code"]
    tests: str
    """Python that raises where the answer's program is wrong; it sees the program's names."""
    seconds: float = Field(default=10.0, gt=0, le=300)
    memory_mb: int = Field(default=512, ge=64)

    async def score(self, answer: str, reference: str) -> Scored:
        limits = Limits(seconds=self.seconds, memory_mb=self.memory_mb)
        result = await run_tests(program_of(answer), self.tests, limits)
        return Scored(
            score=float(result.passed),
            reason=result.reason,
            note=_reach(result),
        )


class Judged(Rule):
    """A judge grades the answer."""

    kind: Literal["judge"]
    prompt: str | None = None
    """Name of a prompt of the file; by default ours, with the reference where there is one."""


RuleScoring = Annotated[Exact | Pattern | Json | Code, Field(discriminator="kind")]
Scoring = Annotated[Exact | Pattern | Json | Code | Judged, Field(discriminator="kind")]


def without_reasoning(answer: str) -> str:
    """The answer without the blocks in which a model thinks before it."""
    return _REASONING.sub("", answer).strip()


def _reach(result: CodeResult) -> str:
    """What a program could have reached; empty when nothing."""
    parts = [
        *([] if result.is_offline else ["the network"]),
        *([] if result.is_write_protected else ["files outside its folder"]),
    ]
    return f"this system cannot keep programs from {' and '.join(parts)}" if parts else ""


def _found(pattern: str, answer: str) -> str | None:
    import regex

    last = None
    try:
        for match in regex.finditer(pattern, answer, timeout=PATTERN_S):
            last = match
    except TimeoutError:
        return None
    if last is None:
        return None
    return last[1] if last.re.groups else last[0]


def _checked(pattern: str | None) -> str | None:
    """Refuses what is no pattern."""
    import regex

    try:
        regex.compile(pattern or "")
    except regex.error as error:
        raise ValueError(f"no pattern: {error}") from None
    return pattern


def _json(reference: str) -> Any:
    try:
        return orjson.loads(reference)
    except orjson.JSONDecodeError as error:
        raise DataError(f"The reference {reference[:60]!r} is no JSON: {error}.") from None
