"""Lark grammars of whole answers in harmony: thoughts, and then a call or the final words."""

import json
from collections.abc import Mapping, Sequence

from fastchat.engine.base import Grammar
from fastchat.protocol.openai_tools import Tool
from fastchat.serve.closed_schema import closed
from fastchat.serve.lark_text import Literals, json_rule

_MARKS = ("start", "channel", "message", "end", "return", "call", "constrain")


class HarmonyGrammar:
    """Grammars of the answers to one chat.

    A model thinks as long as it likes, in messages of its own, before what it is held to. It
    writes one call: the mark after it ends the answer.
    """

    def __init__(
        self, special_ids: Mapping[str, int], tools: Sequence[Tool], *, is_inside: bool
    ) -> None:
        """
        Args:
            special_ids: the marks that are special tokens.
            tools: those that may be called.
            is_inside: the answer goes on within a final message.
        """
        self._literal = Literals(special_ids)
        self._tools = tools
        self._is_inside = is_inside

    def calls(self) -> str:
        """An answer that ends with a call."""
        if self._is_inside:
            return self._source(f"WORDS {self._again} {self._thoughts} call")
        return self._source(f"{self._thoughts} {self._remark} call")

    def calls_or_text(self) -> str:
        """An answer that ends with a call or with any words."""
        if self._is_inside:
            return self._source(f"WORDS ({self._again} {self._thoughts} call)?")
        words = f"final: {self._final} WORDS"
        return self._source(f"{self._thoughts} {self._remark} (call | final)", words)

    def calls_or(self, schema: str) -> str:
        """An answer that ends with a call, or with JSON that fits the schema."""
        document = f"document: {json_rule(schema, is_lenient=False)}"
        if self._is_inside:
            return self._source("document", document)
        final = f"final: {self._final} document"
        return self._source(f"{self._thoughts} (call | final)", final, document)

    def held(self, grammar: Grammar) -> Grammar:
        """The grammar of an answer whose final words keep to another one."""
        if self._is_inside:
            return grammar
        source = self._source(f"{self._thoughts} {self._final} form", _form(grammar))
        return Grammar(kind="lark", source=source, param=grammar.param)

    def _source(self, start: str, *rules: str) -> str:
        literal = self._literal
        # A mark in letters is a mark to the parser too.
        marks = "|".join(rf"<\|{name}\|>" for name in _MARKS)
        return "\n".join(
            [
                f"start: {start}",
                f"thought: {literal('<|channel|>analysis<|message|>')} WORDS",
                f"remark: {literal('<|channel|>commentary<|message|>')} WORDS",
                f"WORDS: /(?s:.*)/ & ~/(?s:.*)({marks})(?s:.*)/",
                *rules,
                *self._call_rules(),
            ]
        )

    @property
    def _again(self) -> str:
        """Between two messages of one answer."""
        return self._literal("<|end|><|start|>assistant")

    @property
    def _thoughts(self) -> str:
        return f"(thought {self._again})*"

    @property
    def _remark(self) -> str:
        """Words to the reader before a call."""
        return f"(remark {self._again})?"

    @property
    def _final(self) -> str:
        return self._literal("<|channel|>final<|message|>")

    def _call_rules(self) -> list[str]:
        """The rule `call`; the recipient stands after the channel's name, or before."""
        if not self._tools:
            return []
        literal = self._literal
        channel, name = literal("<|channel|>"), '"commentary"'
        kind = f'({literal(" <|constrain|>json")} | " json")?'
        lines = ["call: " + " | ".join(f"call_{i}" for i, _ in enumerate(self._tools))]
        for i, tool in enumerate(self._tools):
            to = json.dumps(f" to=functions.{tool.name}")
            arguments = json_rule(closed(tool.source), is_lenient=not tool.is_strict)
            head = f"({channel} {name} {to} | {to} {channel} {name})"
            lines.append(f"call_{i}: {head} {kind} {literal('<|message|>')} arguments_{i}")
            lines.append(f"arguments_{i}: {arguments}")
        return lines


def _form(grammar: Grammar) -> str:
    """The rule `form` for what a final message is to look like."""
    match grammar.kind:
        case "json_schema":
            return f"form: {json_rule(grammar.source, is_lenient=grammar.is_lenient)}"
        case "regex":
            return "form: /" + grammar.source.replace("/", r"\/") + "/"
        case "choice":
            choices = json.loads(grammar.source)
            return "form: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in choices)
        case "lark":
            return f"form: %lark {{\n{grammar.source}\n}}"
