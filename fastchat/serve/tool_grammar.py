"""What the answer to a chat must keep to: a form, calls in the format of the model, or both."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from fastchat.engine.base import EngineInfo, Grammar
from fastchat.errors import ModelError, UsageError
from fastchat.protocol.openai_api import ChatRequest
from fastchat.protocol.openai_constraints import Constraint
from fastchat.protocol.openai_tools import Tool
from fastchat.serve.call_grammar import CallGrammar
from fastchat.serve.harmony_grammar import HarmonyGrammar


def chat_grammar(body: ChatRequest, info: EngineInfo) -> Grammar | None:
    """What the answer to a chat must keep to, if to anything.

    Raises UsageError when the engine cannot, or for demands that cannot be combined.
    """
    found = _held(body, info)
    if found is None or body.raw_prompt is not None or info.reasoning is None:
        return found
    if info.tool_format.shape == "channels":
        return found  # its grammars hold the reasoning too
    return replace(found, skips=(info.reasoning.open, info.reasoning.close))


def _held(body: ChatRequest, info: EngineInfo) -> Grammar | None:
    """The same, for an answer without reasoning."""
    mode = body.tool_choice.mode if body.tools else "none"
    param = "tools" if body.constraint is None else body.constraint.param
    if mode in ("required", "named"):
        _need_grammar(info, "tool_choice")
        return Grammar(kind="lark", source=_writer(body, info).calls(), param="tools")
    if mode == "auto" and body.constraint is not None:
        schema = _schema(body.constraint, info)
        return Grammar(kind="lark", source=_writer(body, info).calls_or(schema), param=param)
    if mode == "auto":
        return _offered(body, info) if "grammar" in info.abilities else None
    found = constraint_grammar(body.constraint, info)
    writer = _writer(body, info)
    if found is None or body.raw_prompt is not None or isinstance(writer, CallGrammar):
        return found
    return writer.held(found)


def _writer(body: ChatRequest, info: EngineInfo) -> CallGrammar | HarmonyGrammar:
    """What writes the grammars of the calls that a chat may have."""
    choice = body.tool_choice
    tools = [t for t in body.tools if choice.mode != "named" or t.name == choice.name]
    if info.tool_format.shape == "channels":
        is_inside = body.continue_final_message
        return HarmonyGrammar(info.special_ids, tools, is_inside=is_inside)
    is_single = choice.mode == "named" or not body.parallel_tool_calls
    return CallGrammar(info.tool_format, info.special_ids, tools, is_single=is_single)


def _offered(body: ChatRequest, info: EngineInfo) -> Grammar | None:
    """The grammar of an answer that may call, and is free as long as it does not.

    An answer that goes on with a message holds no call without a mark: those stand alone.
    """
    form, writer = info.tool_format, _writer(body, info)
    if isinstance(writer, HarmonyGrammar):
        return Grammar(kind="lark", source=writer.calls_or_text(), param="tools")
    after = (form.begin,) if form.begin else ()
    if not after and body.continue_final_message:
        return None
    if form.may_be_bare and not body.continue_final_message:
        opens = writer.bare_beginnings()
        source = writer.calls_or_text()
        return Grammar(kind="lark", source=source, param="tools", after=after, opens=opens)
    return Grammar(
        kind="lark",
        source=writer.rest_of_call(),
        param="tools",
        after=after,
        repeats=body.parallel_tool_calls and not (form.shape == "list" or form.shares_marks),
    )


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


def _schema(constraint: Constraint, info: EngineInfo) -> str:
    """The schema that an answer without calls fits. Raises UsageError for any other form."""
    _need_grammar(info, constraint.param)
    if constraint.kind != "json_schema":
        raise UsageError(
            f"`{constraint.param}` cannot be combined with tools; set `tool_choice` to `none`.",
            param=constraint.param,
        )
    return constraint.source


def _need_grammar(info: EngineInfo, param: str) -> None:
    if "grammar" not in info.abilities:
        raise UsageError("This model cannot be held to a form; ask another model.", param=param)


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
