"""Rules of a Lark grammar for one tagged call: each argument in its tags, held to its schema."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from fastchat.families.formats import ToolFormat
from fastchat.protocol.openai_tools import Tool
from fastchat.serve.closed_schema import closed
from fastchat.serve.lark_text import Literals, json_rule, text
from fastchat.serve.parameter_types import is_text, kinds_of, resolved

GAP = 'gap: "\\n"?'
"""Models of one format write their tags on lines of their own, or not."""

_LONGEST_OTHER = 64
"""Letters of an argument's name that the schema does not know."""
_LONGEST_HELD = 2000
"""Lengths of texts up to which they are enforced."""
_ANY = "(?s:.*)"


class TaggedRules:
    """The rules of the calls of one tool.

    Arguments come in the schema's order, as in JSON. Texts are held to `enum`, `const`, their
    length, and to a pattern that is anchored at both ends; other values to their whole schema.
    """

    def __init__(self, form: ToolFormat, literals: Literals, tool: Tool, *, place: int) -> None:
        """
        Args:
            form: the tags.
            literals: of the model.
            tool: whose calls are described.
            place: a number for the rules' names.
        """
        self._form = form
        self._literal = literals
        self._place = place
        self._schema: Mapping[str, Any] = orjson.loads(closed(tool.source))
        self._is_lenient = not tool.is_strict
        self._name = tool.name

    def rules(self) -> Iterator[str]:
        """The rule `call_{place}` and those that it needs."""
        form, literal, i = self._form, self._literal, self._place
        parts = [literal(f"{form.call_begin}{self._name}{form.between}"), "gap"]
        named = self._schema.get("properties")
        named = named if isinstance(named, Mapping) else {}
        required = self._schema.get("required")
        required = required if isinstance(required, list) else []
        for j, (key, schema) in enumerate(named.items()):
            parts.append(f"argument_{i}_{j}" + ("" if key in required else "?"))
            yield from self._argument(f"{i}_{j}", key, schema)
        if self._schema.get("additionalProperties") is not False:
            parts.append(f"other_{i}*")
            yield from self._other()
        yield f"call_{i}: {' '.join(parts)} {literal(form.call_end)}"

    def _argument(self, number: str, key: str, schema: Any) -> Iterator[str]:
        form, literal = self._form, self._literal
        head = literal(f"{form.key_begin}{key}{form.key_end}")
        yield f"argument_{number}: {head} {self._value_begin()} value_{number} gap"
        yield from self._value(f"value_{number}", schema)

    def _other(self) -> Iterator[str]:
        """An argument that the schema allows without naming it."""
        form, literal, i = self._form, self._literal, self._place
        key = f'/[^<>\\n"]{{1,{_LONGEST_OTHER}}}/'
        head = f"{literal(form.key_begin)} {key} {literal(form.key_end)}"
        yield f"other_{i}: {head} {self._value_begin()} value_{i}_other gap"
        yield self._free(f"value_{i}_other")

    def _value_begin(self) -> str:
        form = self._form
        gap = "gap " if form.value_begin.strip() else ""
        return gap + self._literal(form.value_begin)

    def _value(self, name: str, schema: Any) -> Iterator[str]:
        """The rule of a value, its closing tag included."""
        kinds = kinds_of(schema, self._schema)
        end = self._literal(self._form.value_end)
        target = self._target(schema)
        if isinstance(values := _listed(target), list) and values:
            yield f"{name}: ({' | '.join(_written(value) for value in values)}) {end}"
        elif "string" not in kinds:
            own = {
                key: self._schema[key] for key in ("$defs", "definitions") if key in self._schema
            }
            source = orjson.dumps({**own, **schema}).decode()
            yield f"{name}_json: {json_rule(source, is_lenient=self._is_lenient)}"
            yield f"{name}: {name}_json {end}"
        else:
            yield self._free(name, _regex_of_text(target) if is_text(kinds) else _ANY)

    def _target(self, schema: Any) -> Mapping[str, Any]:
        """The schema itself, or what its reference points to."""
        ref = schema.get("$ref") if isinstance(schema, Mapping) else None
        found = resolved(ref, self._schema) if isinstance(ref, str) else schema
        return found if isinstance(found, Mapping) else {}

    def _free(self, name: str, inner: str = _ANY) -> str:
        """The rule of a text, up to the closing tag."""
        end = self._form.value_end
        attributes, right = self._literal.up_to(end.strip(), inner, has_break="\n" in end)
        return f"{name}{attributes}: {right}"


def _listed(schema: Mapping[str, Any]) -> Any:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _written(value: Any) -> str:
    """One of the values that a schema lists, as it stands between tags."""
    return text(value if isinstance(value, str) else orjson.dumps(value).decode())


def _regex_of_text(schema: Mapping[str, Any]) -> str:
    """What a text is held to: its pattern, or else its length."""
    if (pattern := _whole_pattern(schema)) is not None:
        return pattern
    least, most = _length(schema.get("minLength")) or 0, _length(schema.get("maxLength"))
    if most is None:
        return f"(?s:.{{{least},}})" if least else _ANY
    return f"(?s:.{{{least},{most}}})"


def _length(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _LONGEST_HELD else None


def _whole_pattern(schema: Mapping[str, Any]) -> str | None:
    """The pattern of a text, without its anchors; None where it has none that can be kept to."""
    pattern = schema.get("pattern")
    if not isinstance(pattern, str) or not re.fullmatch(r"\^.*(?<!\\)\$", pattern):
        return None
    inner = pattern[1:-1]
    # A choice at the top has anchors at one end each.
    if "|" in re.sub(r"\([^()]*\)", "", inner):
        return None
    inner = f"(?:{inner})".replace("/", r"\/")
    return inner if _is_regex(inner) else None


@lru_cache(maxsize=512)
def _is_regex(pattern: str) -> bool:
    from llguidance import LLMatcher

    try:
        return not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: /{pattern}/"))
    except ValueError:
        return False
