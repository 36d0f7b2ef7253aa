"""A judge's words -> its verdict. What is not understood stays without one, and says why.

The published patterns are `[[7]]` (else `[7]`) for a grade, `[[A]]`, `[[B]]`, `[[C]]` for a pair
and `[[7,5]]` for two grades. The last one counts, since judges repeat the question's before they
come to their own; what stands in a block of reasoning does not count. A reply that follows the
schema below is read as such.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

TIE_DELTA = 0.1
"""Published: grades this close are a tie."""

LOWEST, HIGHEST = 1.0, 10.0

OutputFormat = Literal["[[rating]]", "[[A]]", "[[rating_a,rating_b]]"]
PairVerdict = Literal["A", "B", "tie"]

_NUMBER = r"(\d+(?:\.\d+)?)"
_RATING = (re.compile(rf"\[\[{_NUMBER}\]\]"), re.compile(rf"\[{_NUMBER}\]"))
_PAIR = re.compile(r"\[\[([ABC])\]\]")
_RATINGS = (
    re.compile(rf"\[\[{_NUMBER}, ?{_NUMBER}\]\]"),
    re.compile(rf"\[{_NUMBER}, ?{_NUMBER}\]"),
)
_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL)
_HEADLESS = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge decided; exactly one of the three is set."""

    score: float | None = None
    pair: PairVerdict | None = None
    reason: str | None = None
    """Why there is no verdict."""


def parse_verdict(text: str, output_format: OutputFormat) -> Verdict:
    """The verdict in a judge's reply."""
    said = _HEADLESS.sub("", _REASONING.sub("", text)).strip()
    if not said:
        return Verdict(reason="reasoning without an answer" if text.strip() else "empty reply")
    structured = _structured(said)
    match output_format:
        case "[[rating]]":
            return _rating(said, structured)
        case "[[A]]":
            return _pair(said, structured)
        case "[[rating_a,rating_b]]":
            return _two_ratings(said)


def as_text(text: str, output_format: OutputFormat) -> str:
    """A reply that follows the schema in the words of the published form; others as they are."""
    value = _structured(text.strip())
    if value is None:
        return text
    said = str(value.get("explanation", "")).strip()
    if output_format == "[[rating]]" and "rating" in value:
        return f"{said}\n\nRating: [[{value['rating']}]]"
    if output_format == "[[A]]" and "verdict" in value:
        return f"{said}\n\n[[{value['verdict']}]]"
    return text


def schema_of(output_format: OutputFormat) -> dict[str, Any] | None:
    """The JSON schema of a reply; the explanation comes first, so that it leads to the verdict."""
    match output_format:
        case "[[rating]]":
            decision: dict[str, Any] = {"rating": {"type": "number", "minimum": 1, "maximum": 10}}
        case "[[A]]":
            decision = {"verdict": {"type": "string", "enum": ["A", "B", "C"]}}
        case "[[rating_a,rating_b]]":
            return None
    return {
        "type": "object",
        "properties": {"explanation": {"type": "string"}, **decision},
        "required": ["explanation", *decision],
        "additionalProperties": False,
    }


def _rating(said: str, structured: Mapping[str, Any] | None) -> Verdict:
    rating = structured.get("rating") if structured is not None else None
    if isinstance(rating, int | float) and not isinstance(rating, bool):
        return _graded(float(rating))
    for pattern in _RATING:
        if found := pattern.findall(said):
            return _graded(float(found[-1]))
    return Verdict(reason="no rating like [[5]]")


def _graded(score: float) -> Verdict:
    if LOWEST <= score <= HIGHEST:
        return Verdict(score=score)
    return Verdict(reason=f"a rating outside {LOWEST:g} to {HIGHEST:g}")


def _pair(said: str, structured: Mapping[str, Any] | None) -> Verdict:
    letter = structured.get("verdict") if structured is not None else None
    if letter not in ("A", "B", "C"):
        found = _PAIR.findall(said)
        if not found:
            return Verdict(reason="no verdict like [[A]]")
        letter = found[-1]
    return Verdict(pair="tie" if letter == "C" else letter)


def _two_ratings(said: str) -> Verdict:
    for pattern in _RATINGS:
        if found := pattern.findall(said):
            return Verdict(pair=better_of(float(found[-1][0]), float(found[-1][1])))
    return Verdict(reason="no ratings like [[7,5]]")


def better_of(a: float, b: float) -> PairVerdict:
    """Which of two grades wins."""
    if abs(a - b) <= TIE_DELTA + 1e-9:
        return "tie"
    return "A" if a > b else "B"


def _structured(said: str) -> Mapping[str, Any] | None:
    """The JSON object that the reply is, fenced or not."""
    body = said.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not body.startswith("{"):
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
