"""Grammars of tool calls, in the format of the model, with each tool's own parameters."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson

from fastchat.engine.base import EngineInfo, Grammar
from fastchat.errors import ModelError, UsageError
from fastchat.families.formats import ToolFormat
from fastchat.protocol.openai_api import ChatRequest
from fastchat.protocol.openai_constraints import Constraint
from fastchat.protocol.openai_tools import Tool

_JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Arguments stand on one line, as all JSON of the engine does."""


def chat_grammar(body: ChatRequest, info: EngineInfo) -> Grammar | None:
    """What the answer to a chat must keep to, if to anything.

    Raises UsageError when the engine cannot, or for demands that cannot be combined.
    """
    mode = body.tool_choice.mode if body.tools else "none"
    skips = None
    if info.reasoning is not None and body.raw_prompt is None:
        skips = (info.reasoning.open, info.reasoning.close)
    if mode in ("required", "named"):
        _need_grammar(info, "tool_choice")
        chosen = [t for t in body.tools if mode == "required" or t.name == body.tool_choice.name]
        is_single = mode == "named" or not body.parallel_tool_calls
        writer = CallGrammar(info.tool_format, info.special_ids, chosen, is_single=is_single)
        return Grammar(kind="lark", source=writer.calls(), param="tools", skips=skips)
    if mode == "auto":
        writer = CallGrammar(
            info.tool_format, info.special_ids, body.tools, is_single=not body.parallel_tool_calls
        )
        if body.constraint is not None:
            return _either(writer, body.constraint, info, skips=skips)
        if not info.tool_format.begin or "grammar" not in info.abilities:
            return None
        return Grammar(
            kind="lark",
            source=writer.rest_of_call(),
            param="tools",
            after=(info.tool_format.begin,),
            repeats=body.parallel_tool_calls and info.tool_format.shape != "list",
            skips=skips,
        )
    found = constraint_grammar(body.constraint, info)
    return found and replace(found, skips=skips)


def constraint_grammar(constraint: Constraint | None, info: EngineInfo) -> Grammar | None:
    """The grammar of a demand for a form. Raises UsageError when the engine follows none."""
    if constraint is None:
        return None
    _need_grammar(info, constraint.param)
    return Grammar(kind=constraint.kind, source=constraint.source, param=constraint.param)


async def check_tools(tools: Sequence[Tool]) -> None:
    """Refuses parameters that are no JSON schema, whether or not a grammar is made of them.

    Raises UsageError that names the tool.
    """
    if tools:
        await asyncio.to_thread(_check_tools, tools)


class CallGrammar:
    """Lark grammars of the calls of some tools."""

    def __init__(
        self,
        form: ToolFormat,
        special_ids: Mapping[str, int],
        tools: Sequence[Tool],
        *,
        is_single: bool,
    ) -> None:
        """
        Args:
            form: how the model writes calls.
            special_ids: its marks that are special tokens.
            tools: those that may be called.
            is_single: one call at most.
        """
        self._form = form
        self._special_ids = special_ids
        self._tools = tools
        self._is_single = is_single

    def calls(self) -> str:
        """An answer of calls alone."""
        return f"start: calls\ncalls: {self._calls()}\n{self._rules()}"

    def calls_or(self, schema: str) -> str:
        """An answer of calls alone, or of JSON that fits the schema."""
        document = _json(schema, is_lenient=False)
        return f"start: calls | answer\nanswer: {document}\ncalls: {self._calls()}\n{self._rules()}"

    def rest_of_call(self) -> str:
        """What follows a call's first mark, up to the end of the call."""
        form = self._form
        match form.shape:
            case "named":
                body = "call"
            case "list":
                body = f'BLANK "[" {self._several("call", ", ")} "]"'
            case "object" if form.end:
                body = f"BLANK call BLANK {self._mark(form.end)}"
            case "object":
                body = f"BLANK {self._several('call', form.separator)}"
        return f"start: {body}\nBLANK: /[ \\n]{{0,4}}/\n{self._rules()}"

    def _calls(self) -> str:
        form = self._form
        begin = self._mark(form.begin) if form.begin and not form.may_be_bare else ""
        match form.shape:
            case "named":
                return self._several(f"({begin} call)", "")
            case "list":
                return f'{begin} "[" {self._several("call", ", ")} "]"'
            case "object" if form.end:
                one = f'({begin} "\\n" call "\\n" {self._mark(form.end)})'
                return self._several(one, form.separator)
            case "object":
                return self._several("call", form.separator)

    def _rules(self) -> str:
        """The rule `call`: one of the tools, with arguments that fit its parameters."""
        lines = ["call: " + " | ".join(f"call_{i}" for i in range(len(self._tools)))]
        for i, tool in enumerate(self._tools):
            arguments = _json(closed(tool.source), is_lenient=not tool.is_strict)
            lines.append(f"arguments_{i}: {arguments}")
            if self._form.shape == "named":
                between = self._mark(self._form.between)
                lines.append(f"call_{i}: {_text(tool.name)} {between} arguments_{i}")
            else:
                head = f'{{"name": {json.dumps(tool.name)}, "{self._form.arguments}": '
                lines.append(f'call_{i}: {_text(head)} arguments_{i} "}}"')
        return "\n".join(lines)

    def _several(self, one: str, separator: str) -> str:
        if self._is_single:
            return one
        between = _text(separator) if separator else ""
        return f"{one} ({between} {one})*"

    def _mark(self, mark: str) -> str:
        special = self._special_ids.get(mark)
        return _text(mark) if special is None else f"<[{special}]>"


def _either(
    writer: CallGrammar,
    constraint: Constraint,
    info: EngineInfo,
    *,
    skips: tuple[str, str] | None,
) -> Grammar:
    _need_grammar(info, constraint.param)
    if constraint.kind != "json_schema":
        raise UsageError(
            f"`{constraint.param}` cannot be combined with tools; set `tool_choice` to `none`.",
            param=constraint.param,
        )
    source = writer.calls_or(constraint.source)
    return Grammar(kind="lark", source=source, param=constraint.param, skips=skips)


def _need_grammar(info: EngineInfo, param: str) -> None:
    if "grammar" not in info.abilities:
        raise UsageError("This model cannot be held to a form; ask another model.", param=param)


def _json(schema: str, *, is_lenient: bool) -> str:
    """A schema as a part of a Lark grammar."""
    fields = orjson.loads(schema)
    fields["x-guidance"] = {**_JSON_FORM, "lenient": is_lenient}
    return "%json " + orjson.dumps(fields).decode()


def closed(schema: str) -> str:
    """A tool's parameters without those that it does not name.

    JSON Schema allows any others where `additionalProperties` is not there, and a function that
    gets them fails. What is put together of several schemas stays as it is: each alone would
    forbid what the others name.
    """
    if '"allOf"' in schema or '"if"' in schema or '"dependentSchemas"' in schema:
        return schema
    return orjson.dumps(_closed(orjson.loads(schema))).decode()


_PLACES = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_OTHERS = {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", *_LISTS}
"""With one of these beside them, `properties` are not all that may be there."""


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for name in _PLACES:
        if isinstance(inner := schema.get(name), dict):
            result[name] = {key: _closed(value) for key, value in inner.items()}
    for name in _LISTS:
        if isinstance(inner := schema.get(name), list):
            result[name] = [_closed(value) for value in inner]
    if "items" in schema:
        result["items"] = _closed(schema["items"])
    named = schema.get("properties")
    if isinstance(named, dict) and not _OTHERS & schema.keys() and _needs_no_other(schema, named):
        result["additionalProperties"] = False
    return result


def _needs_no_other(schema: dict[str, Any], named: dict[str, Any]) -> bool:
    required = schema.get("required", [])
    return isinstance(required, list) and all(name in named for name in required)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _check_tools(tools: Sequence[Tool]) -> None:
    for i, tool in enumerate(tools):
        if reason := _schema_fault(tool.source, is_lenient=not tool.is_strict):
            param = f"tools[{i}].function.parameters"
            raise UsageError(f"`{param}` cannot be compiled: {reason}", param=param)


@lru_cache(maxsize=512)
def _schema_fault(source: str, *, is_lenient: bool) -> str:
    """Why a schema cannot be compiled; empty where it can."""
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise ModelError(
            "llguidance is not installed, which tools need; install fschat[model_worker]"
        ) from None
    try:
        grammar = LLMatcher.grammar_from_json_schema(source, overrides={"lenient": is_lenient})
        fault = LLMatcher.validate_grammar(grammar)
    except ValueError as error:  # nested too deeply
        fault = str(error)
    return " ".join(fault.split())[:300]
