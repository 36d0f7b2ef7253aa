"""The HTML of a chat page as the Markdown it was made from.

The page is parsed by lexbor, as a browser would; what its elements mean in Markdown is decided
here. Code stands verbatim, a formula once as its TeX source, a table as pipe rows, and prose
is escaped only where Markdown would read it otherwise.
"""

import re
from collections.abc import Callable
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from fastchat.data.chat_page import COPY_COUNT, LABEL, REGENERATED, depth_of

# A marked section that no browser and no parser knows: the page was cut or garbled there.
_UNKNOWN_SECTION = re.compile(r"<!\[(?!(?:temp|cdata|ignore|include|rcdata|if|else|endif)\b)", re.I)

_BLANKS = re.compile(r"[ \t\f\xa0]+")
_BREAKS = re.compile(r"[ \t]*\n[ \t]*")
_MANY_BREAKS = re.compile(r"\n{3,}")
_SPECIAL = re.compile(r"[*_`\[<&~]")
# Looking ahead is bounded, so that no message takes the square of its length.
_ESCAPED = re.compile(
    r"(?<![\w*])\*{1,3}(?=[^\s*][^*\n]{0,300}?(?<=\S)\*{1,3}(?![\w*]))"  # emphasis opens
    r"|(?<=[^\s*])\*{1,3}(?![\w*])(?<=\*)"  # and closes
    r"|(?<!\w)_{1,3}(?=[^\s_][^\n]{0,300}?(?<=[^\s_])_{1,3}(?!\w))"
    r"|(?<=[^\s_])_{1,3}(?!\w)"
    r"|`"
    r"|\[(?=[^\[\]\n]{1,300}\]\([^()\n]{0,2000}\))"
    r"|<(?=/?[A-Za-z][^<>\n]{0,2000}>|!--)"
    r"|&(?=#?\w+;)"
    r"|~~(?=\S)"
)
_OPENS_BLOCK = re.compile(r"^(?=#{1,6}(?: |$)|>)", re.M)

_SKIPPED = frozenset(
    (
        *("button", "svg", "script", "style", "noscript", "iframe", "template", "head", "title"),
        *("meta", "link", "input", "select", "textarea", "audio", "video", "canvas", "object"),
    )
)
_CONTAINERS = frozenset(
    (
        *("div", "p", "section", "article", "main", "header", "footer", "aside", "nav", "figure"),
        *("figcaption", "details", "summary", "form", "fieldset", "address", "center", "dl", "dt"),
        *("dd", "body", "html", "li", "tr", "td", "th", "thead", "tbody", "tfoot", "caption"),
    )
)
_MANY_TAGS = 5_000
_MAX_DEPTH = 1_000
_WRAPPED = {"strong": "**", "b": "**", "em": "*", "i": "*", "del": "~~", "s": "~~", "strike": "~~"}


class RejectedMarkup(ValueError):
    """The HTML is broken in a way that leaves its text in doubt."""


def markdown_from_html(html: str) -> str:
    """The message as Markdown, without outer blanks.

    Raises:
        RejectedMarkup: a marked section is unknown, or elements nest without end.
    """
    if "<![" in html and _UNKNOWN_SECTION.search(html):
        raise RejectedMarkup("a marked section that is not known")
    if html.count("<") > _MANY_TAGS and depth_of(html) > _MAX_DEPTH:
        raise RejectedMarkup("elements nest too deeply")
    body = LexborHTMLParser(html).body
    if body is None:
        return ""
    try:
        blocks = _Page(has_formulas="katex" in html or "math" in html).blocks(body)
    except RecursionError:
        raise RejectedMarkup("elements nest too deeply") from None
    text = "\n\n".join(blocks)
    return REGENERATED.sub("", text).strip()


class _Page:
    """Turns elements into blocks of Markdown.

    `out` takes finished blocks, `run` the pieces of the paragraph that has begun.
    """

    def __init__(self, *, has_formulas: bool) -> None:
        self._has_formulas = has_formulas
        self._verbatim = False

    def blocks(self, node: Any) -> list[str]:
        """The blocks within an element."""
        out: list[str] = []
        run: list[str] = []
        self._walk(node, out, run)
        self._end_paragraph(out, run)
        return out

    def _walk(self, node: Any, out: list[str], run: list[str]) -> None:
        child = node.child
        while child is not None:
            tag = child.tag
            if tag == "-text":
                run.append(self._text(child.text_content))
            elif tag == "p":
                # Most of a page; a formula or a class never decides here.
                self._end_paragraph(out, run)
                self._walk(child, out, run)
                self._end_paragraph(out, run)
            elif (element := _ELEMENTS.get(tag)) is not None:
                self._end_paragraph(out, run)
                out += element(self, child)
            elif tag in _CONTAINERS:
                self._end_paragraph(out, run)
                self._contain(child, out, run)
                self._end_paragraph(out, run)
            elif tag == "span":
                self._span(child, out, run)
            else:
                run.append(self._inline(child))
            child = child.next

    def _contain(self, node: Any, out: list[str], run: list[str]) -> None:
        """Walks a block element; its class may say that blanks count, or that it is a formula."""
        classes = node.attributes.get("class") or ""
        if self._has_formulas and "math" in classes and (formula := _formula(node)):
            out.append(formula)
            return
        before = self._verbatim
        if "whitespace-pre-wrap" in classes:
            self._verbatim = True
        elif "markdown" in classes or "prose" in classes:
            self._verbatim = False
        self._walk(node, out, run)
        self._end_paragraph(out, run)
        self._verbatim = before

    def _span(self, node: Any, out: list[str], run: list[str]) -> None:
        if self._has_formulas:
            classes = node.attributes.get("class") or ""
            if ("katex" in classes or "math" in classes) and (formula := _formula(node)):
                if formula.startswith("$$"):
                    self._end_paragraph(out, run)
                    out.append(formula)
                else:
                    run.append(formula)
                return
        self._walk(node, out, run)

    def _end_paragraph(self, out: list[str], run: list[str]) -> None:
        """Makes a block of the pieces of a paragraph."""
        if not run:
            return
        text = "".join(run)
        run.clear()
        if "chars / " in text:
            text = COPY_COUNT.sub("", text)
        if self._verbatim:
            text = text.strip("\n")
            if text.strip():
                out.append(text)
            return
        text = text.strip()
        if not text:
            return
        if "\n\n\n" in text:
            text = _MANY_BREAKS.sub("\n\n", text)
        if "#" in text or ">" in text:
            text = _OPENS_BLOCK.sub(r"\\", text)
        out.append(text)

    def _text(self, text: str) -> str:
        """A text node, its blanks as a browser shows them, its line breaks kept."""
        if self._verbatim:
            return text
        if "  " in text or "\t" in text or "\xa0" in text:
            text = _BLANKS.sub(" ", text)
        if "\n" in text:
            text = _BREAKS.sub("\n", text)
        # Lists and TeX are not escaped: a line that begins with a dash or a number is an item to
        # every reader, and most backslashes in prose stand before TeX.
        return _ESCAPED.sub(r"\\\g<0>", text) if _SPECIAL.search(text) else text

    def _inline(self, node: Any) -> str:
        """An element within a line."""
        tag: str = node.tag
        if tag == "-text":
            return self._text(node.text_content)
        if tag == "code" or tag in ("kbd", "samp", "tt"):
            return _code_span(node.text_lexbor())
        if mark := _WRAPPED.get(tag):
            return _wrap(self._line(node), mark)
        if tag == "a":
            return self._link(node)
        if tag == "br":
            return "\n" if self._verbatim else "  \n"
        if tag == "img":
            source = node.attributes.get("src") or ""
            return f"![{node.attributes.get('alt') or ''}]({source})" if source else ""
        if tag == "math":
            return _formula(node) or node.text_lexbor()
        if tag == "script" and self._has_formulas:
            return _formula(node) or ""
        if tag in _SKIPPED or tag.startswith(("-", "_", "!")):
            return ""
        if tag in ("sup", "sub") and (text := self._line(node)):
            return f"<{tag}>{text}</{tag}>"
        return self._line(node)

    def _line(self, node: Any) -> str:
        """What stands in an element, all in one paragraph."""
        pieces: list[str] = []
        child = node.child
        while child is not None:
            if child.tag == "span" and self._has_formulas:
                out: list[str] = []
                run: list[str] = []
                self._span(child, out, run)
                pieces += [" ".join(out), "".join(run)]
            elif child.tag in _ELEMENTS or child.tag in _CONTAINERS:
                pieces.append(f" {' '.join(self.blocks(child))} ")
            else:
                pieces.append(self._inline(child))
            child = child.next
        return "".join(pieces)

    def _link(self, node: Any) -> str:
        text = self._line(node)
        target = node.attributes.get("href") or ""
        if not target or not text.strip():
            return text
        if text == target:
            return f"<{target}>"
        if " " in target or target.count("(") != target.count(")"):
            target = f"<{target}>"
        title = node.attributes.get("title")
        return f'[{text}]({target} "{title}")' if title else f"[{text}]({target})"

    def _heading(self, node: Any) -> list[str]:
        text = " ".join(self._line(node).split())
        return [f"{'#' * int(node.tag[1])} {text}"] if text else []

    def _quote(self, node: Any) -> list[str]:
        text = "\n\n".join(self.blocks(node))
        return ["\n".join(f"> {x}" if x else ">" for x in text.split("\n"))] if text else []

    def _list(self, node: Any) -> list[str]:
        """Items with their continuation indented below their text."""
        number = None
        if node.tag == "ol":
            number = _number(node.attributes.get("start"), 1)
        lines: list[str] = []
        for child in node.iter():
            if child.tag in ("ul", "ol"):
                # A list directly within a list belongs to the item before it.
                lines += ["  " + line for block in self._list(child) for line in block.split("\n")]
                continue
            marker = "- "
            if number is not None:
                number = _number(child.attributes.get("value"), number)
                marker = f"{number}. "
                number += 1
            lines.append(_item(self.blocks(child), marker))
        return ["\n".join(lines)] if lines else []

    def _table(self, node: Any) -> list[str]:
        """A pipe table; a cell that spans several places leaves the others blank."""
        rows: list[list[str]] = []
        covered: dict[tuple[int, int], str] = {}
        for y, row in enumerate(node.css("tr")):
            cells: list[str] = []
            for cell in row.iter():
                if cell.tag not in ("td", "th"):
                    continue
                while (y, len(cells)) in covered:
                    cells.append("")
                width = _number(cell.attributes.get("colspan"), 1, most=100)
                height = _number(cell.attributes.get("rowspan"), 1, most=1000)
                for dy in range(1, height):
                    for dx in range(width):
                        covered[y + dy, len(cells) + dx] = ""
                text = " ".join(" ".join(self.blocks(cell)).split())
                cells += [text.replace("|", "\\|"), *[""] * (width - 1)]
            while (y, len(cells)) in covered:
                cells.append("")
            if cells:
                rows.append(cells)
        if not rows:
            return []
        n_columns = max(map(len, rows))
        lines = [f"| {' | '.join(row + [''] * (n_columns - len(row)))} |" for row in rows]
        return ["\n".join([lines[0], "|" + " --- |" * n_columns, *lines[1:]])]

    def _code_block(self, node: Any) -> list[str]:
        """A fence with the language of its label, or else of its class."""
        code = node.css_first("code")
        if code is None:
            text = "".join(_texts_outside(node, "button"))
            label = LABEL.match(text)
            language = label[1] if label else ""
            text = text[label.end() :].removeprefix("\n") if label else text
        else:
            label_text = "".join(_texts_outside(node, "button", "code"))
            language = _language(label_text, code.attributes.get("class") or "")
            text = code.text_lexbor()
        text = text.removesuffix("\n")
        if not text.strip():
            return []
        fence = "```"
        while fence in text:
            fence += "`"
        return [f"{fence}{language}\n{text}\n{fence}"]


_ELEMENTS: dict[str, Callable[[_Page, Any], list[str]]] = {
    "pre": _Page._code_block,
    "ul": _Page._list,
    "ol": _Page._list,
    "table": _Page._table,
    "blockquote": _Page._quote,
    "hr": lambda page, node: ["---"],
    **{f"h{n}": _Page._heading for n in range(1, 7)},
}
"""What makes blocks of its own of an element."""


def _language(label_text: str, classes: str) -> str:
    label = LABEL.match(label_text)
    words = (label[1] if label else label_text).split()
    if len(words) == 1:
        return words[0]
    for name in classes.split():
        if name.startswith("language-"):
            return name.removeprefix("language-")
    return ""


def _texts_outside(node: Any, *tags: str) -> list[str]:
    """The texts of an element without those in elements of these names."""
    texts: list[str] = []
    child = node.child
    while child is not None:
        tag = child.tag
        if tag == "-text":
            texts.append(child.text_content)
        elif tag == "br":
            texts.append("\n")
        elif tag not in tags and not tag.startswith("-"):
            texts += _texts_outside(child, *tags)
        child = child.next
    return texts


def _formula(node: Any) -> str | None:
    """The TeX source of a formula, which the page also holds as MathML and as a picture."""
    if node.tag == "script":
        kind = node.attributes.get("type") or ""
        if not kind.startswith("math/tex"):
            return None
        tex, is_display = node.text_lexbor().strip(), "display" in kind
    else:
        source = node.css_first('annotation[encoding="application/x-tex"]')
        if source is None:
            return None
        tex = source.text_lexbor().strip()
        classes = node.attributes.get("class") or ""
        is_display = "display" in classes or node.css_first(".katex-display") is not None
    if not tex:
        return None
    return f"$$\n{tex}\n$$" if is_display else f"${tex}$"


def _code_span(text: str) -> str:
    text = text.replace("\n", " ")
    if not text.strip():
        return text
    fence = "`"
    while fence in text:
        fence += "`"
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _wrap(text: str, mark: str) -> str:
    """Emphasis, with its outer blanks outside, where Markdown wants them."""
    inner = text.strip()
    if not inner:
        return text
    start = text.index(inner)
    return f"{text[:start]}{mark}{inner}{mark}{text[start + len(inner) :]}"


def _item(blocks: list[str], marker: str) -> str:
    text = ""
    for block in blocks:
        is_list = block.startswith(("- ", "1. "))
        text += ("\n" if is_list else "\n\n") * bool(text) + block
    indent = " " * len(marker)
    return marker + re.sub(r"\n(?=[^\n])", "\n" + indent, text)


def _number(text: str | None, otherwise: int, *, most: int = 10**9) -> int:
    return min(int(text), most) if text and text.isdecimal() else otherwise
