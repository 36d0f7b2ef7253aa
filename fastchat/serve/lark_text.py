"""Pieces of Lark grammars as llguidance reads them: texts, special tokens, JSON."""

import json
import re
from collections.abc import Mapping

import orjson

_JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Arguments stand on one line, as all JSON of the engine does."""

_REGEX_SIGNS = re.compile(r"([\\^$.|?*+()\[\]{}/&~#-])")


def text(value: str) -> str:
    """A text as a grammar's literal."""
    return json.dumps(value, ensure_ascii=False)


def regex_text(value: str) -> str:
    """A text within a regular expression between slashes."""
    return _REGEX_SIGNS.sub(r"\\\1", value).replace("\n", r"\n")


def json_rule(schema: str, *, is_lenient: bool) -> str:
    """A schema as the right side of a rule."""
    fields = orjson.loads(schema)
    fields["x-guidance"] = {**_JSON_FORM, "lenient": is_lenient}
    return "%json " + orjson.dumps(fields).decode()


class Literals:
    """Texts of one model, in which its special tokens are tokens."""

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        """
        Args:
            special_ids: the ids of marks that are special tokens, by their text.
        """
        self._ids = special_ids
        marks = sorted(special_ids, key=len, reverse=True)
        self._any_mark = re.compile("(" + "|".join(map(re.escape, marks)) + ")") if marks else None

    def __call__(self, value: str) -> str:
        """A text as a row of literals and tokens; nothing for an empty one."""
        pieces = self._any_mark.split(value) if self._any_mark else [value]
        return " ".join(
            f"<[{self._ids[piece]}]>" if piece in self._ids else text(piece)
            for piece in pieces
            if piece
        )

    def up_to(self, mark: str, inner: str, *, has_break: bool) -> tuple[str, str]:
        """The attributes and the right side of a rule for a text and the mark that ends it.

        inner: a regular expression of the text; has_break: a line break before the mark is none
        of it.
        """
        pad = r"\n?" if has_break else ""
        if mark in self._ids:
            return "", f"/{inner}{pad}/ <[{self._ids[mark]}]>"
        # The shortest text that ends so: the mark cannot stand within it.
        return "[lazy]", f"/{inner}{pad}{regex_text(mark)}/"
