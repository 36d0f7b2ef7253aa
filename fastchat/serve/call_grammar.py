"""Lark grammars of tool calls, in the format of a model, with each tool's own parameters."""

import json
from collections.abc import Iterator, Mapping, Sequence

from fastchat.families.formats import ToolFormat
from fastchat.protocol.openai_tools import Tool
from fastchat.serve.closed_schema import closed
from fastchat.serve.lark_text import Literals, json_rule, regex_text, text
from fastchat.serve.tagged_grammar import GAP, TaggedRules

_BLANK = "BLANK: /[ \\n]{0,4}/"
_BARE = r"""
B: /[ \n\r\t]{0,4}/
SEPARATOR: /[ \n]{0,2}[;,\n][ \n]{0,2}/
"""


class CallGrammar:
    """Grammars of the calls of some tools."""

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
        self._literal = Literals(special_ids)
        self._tools = tools
        self._is_single = is_single

    def calls(self) -> str:
        """An answer of calls alone."""
        return f"start: calls\ncalls: {self._calls()}\n{self._rules()}"

    def calls_or(self, schema: str) -> str:
        """An answer of calls alone, or of JSON that fits the schema."""
        document = json_rule(schema, is_lenient=False)
        return f"start: calls | answer\nanswer: {document}\ncalls: {self._calls()}\n{self._rules()}"

    def rest_of_call(self) -> str:
        """What follows a call's first mark, up to the end of the call, or of all."""
        form = self._form
        _, close = self._brackets()
        close = f"BLANK {close}" if close else ""
        if form.shape == "object" and not form.end:
            body = f"BLANK {self._several('call')}"
        elif form.shape == "list":
            body = f'BLANK "[" {self._several("call")} "]"'
        elif self._is_shared:
            body = f"BLANK {self._several('call')} {close}"
        elif form.shape == "named" and not form.call_begin:
            body = f"call {close}"
        else:
            body = f"BLANK call {close}"
        return f"start: {body}\n{_BLANK}\n{self._rules()}"

    def calls_or_text(self) -> str:
        """An answer that is calls without a mark, or any text that does not begin as one.

        What a call begins with is one lexeme, beside the text that lacks it: of two lexemes
        that match, the longer one is taken.
        """
        calls = "" if self._is_single else "(SEPARATOR next)*"
        listed = "" if self._is_single else '("," B next)*'
        names = "|".join(regex_text(tool.name) for tool in self._tools)
        kind = r'("type"\s*:\s*"function"\s*,\s*)?'
        head = rf'\{{\s*{kind}"name"\s*:\s*"'
        lines = [
            f'start: TEXT | first {calls} | listed {listed} B "]"{self._marked_start()}',
            rf'TEXT: /(?s:.*)/ & ~/[ \n\r\t]*(\[\s*)?{head}({names})"(?s:.*)/',
            _BARE.strip(),
        ]
        for rule in ("first", "listed", "next"):
            lines.append(f"{rule}: " + " | ".join(f"{rule}_{i}" for i, _ in enumerate(self._tools)))
        key = text(f'"{self._form.arguments}"')
        for i, tool in enumerate(self._tools):
            own = f'{head}{regex_text(tool.name)}"'
            tail = f'B "," B {key} B ":" B arguments_{i} B "}}"'
            for rule, before in (("first", r"[ \n\r\t]*"), ("listed", r"[ \n\r\t]*\[\s*")):
                lines.append(f"{rule}_{i}: {rule.upper()}_{i} {tail}")
                lines.append(f"{rule.upper()}_{i}: /{before}{own}/")
            lines.append(f"next_{i}: NEXT_{i} {tail}")
            lines.append(f"NEXT_{i}: /{own}/")
        return "\n".join([*lines, self._rules()])

    def bare_beginnings(self) -> tuple[str, ...]:
        """What calls without a mark begin with, blanks left out."""
        return tuple(
            f'{bracket}{{{kind}"name":{json.dumps(tool.name)}'
            for bracket in ("", "[")
            for kind in ("", '"type":"function",')
            for tool in self._tools
        )

    @property
    def _is_shared(self) -> bool:
        return self._form.shape == "list" or self._form.shares_marks

    def _marked_start(self) -> str:
        """The same calls after their mark, where the format has one."""
        if not self._form.begin:
            return ""
        return f" | {self._literal(self._form.begin)} B {self._several('call')}"

    def _calls(self) -> str:
        open, close = self._brackets()
        if self._is_shared:
            return f"{open} {self._several('call')} {close}"
        return self._several(f"({open} call {close})" if open or close else "call")

    def _brackets(self) -> tuple[str, str]:
        """What stands before and after the calls of one pair of marks."""
        form, literal = self._form, self._literal
        if form.shape == "list":
            return f'{literal(form.begin)} "["', '"]"'
        if form.shape == "object":
            begin = "" if form.may_be_bare else form.begin
            return literal(f"{begin}\n" if begin else ""), literal(
                f"\n{form.end}" if form.end else ""
            )
        gap, end_gap = form.gap and form.call_begin and "gap ", form.gap and form.end and "gap "
        return f"{literal(form.begin)} {gap}", f"{end_gap}{literal(form.end)}"

    def _rules(self) -> str:
        """The rule `call`: one of the tools, with arguments that fit its parameters."""
        lines = ["call: " + " | ".join(f"call_{i}" for i in range(len(self._tools)))]
        for i, tool in enumerate(self._tools):
            lines += self._rules_of(i, tool)
        if self._form.shape == "tagged":
            lines.append(GAP)
        return "\n".join(lines)

    def _rules_of(self, i: int, tool: Tool) -> Iterator[str]:
        form, literal = self._form, self._literal
        if form.shape == "tagged":
            yield from TaggedRules(form, literal, tool, place=i).rules()
            return
        yield f"arguments_{i}: {json_rule(closed(tool.source), is_lenient=not tool.is_strict)}"
        if form.shape == "named":
            head = literal(f"{form.call_begin}{form.id_prefix}{tool.name}")
            number = '":" /[0-9]{1,4}/' if form.id_prefix else ""
            rest = f"{literal(form.between)} arguments_{i} {literal(form.call_end)}"
            yield f"call_{i}: {head} {number} {rest}"
        else:
            head = f'{{"name": {json.dumps(tool.name)}, "{form.arguments}": '
            yield f'call_{i}: {text(head)} arguments_{i} "}}"'

    def _several(self, one: str) -> str:
        if self._is_single:
            return one
        form = self._form
        separator = ", " if form.shape == "list" else form.separator
        # Where a mark alone begins a call, nothing stands between two.
        if form.shape == "named" and not form.call_end:
            separator = ""
        return f"{one} ({text(separator) if separator else ''} {one})*"
