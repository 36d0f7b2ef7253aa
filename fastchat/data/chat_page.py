"""What a chat page puts round and into its messages: elements, buttons, counters.

Tells HTML from text that speaks of HTML, and knows what the page's buttons say.
"""

import re

_TAGS = (
    "p|div|span|pre|code|ul|ol|li|h[1-6]|table|thead|tbody|tr|t[dh]|br|hr|strong|em|b|i|a|"
    "blockquote|img|section|article|svg|button|math|sup|sub|del"
)
_OPENING_TAG = re.compile(rf"\s*<(?:{_TAGS})(?:\s[^<>]*)?/?>", re.I)
_CLOSING_TAG = re.compile(rf"</(?:{_TAGS})>|<[bh]r\s*/?>", re.I)
_CODE = re.compile(r"(`{3,}|~{3,}).*?(?:\1|\Z)|(`+)(?!`).{1,2000}?(?<!`)\2(?!`)", re.S)

# Classes that the page puts round a reader's message, and no pasted page is likely to begin with.
_PAGE_CLASSES = ("whitespace-pre-wrap", "markdown", "prose", "items-start", "min-h-[20px]")
_PAGE_DIV = re.compile(r"\s*<div class=\"([^\"]*)\"[^<>]*>.*</div>\s*\Z", re.S)

_COPY_BUTTONS = (
    "Copy code|Copier le code|Code kopieren|Copiar código|Copia codice|Kod kopyala|Kodu kopyala|"
    "Копировать код|Скопировать код|Скопіювати код|Kopiuj kod|Kopieer code|Kopiera kod|"
    "复制代码|複製程式碼|複製代碼|コードをコピーする|코드 복사|Sao chép mã|Salin kode|نسخ الرمز"
)
LABEL = re.compile(rf"\s*([\w+#.-]*)\s*(?:{_COPY_BUTTONS})(?:\s*(?:{_COPY_BUTTONS}))*")
_COPY_IN_FENCE = re.compile(rf"^(```)\s*([\w+#.-]*?)\s*(?:{_COPY_BUTTONS})+[ \t]*\n?", re.M)
_EMPTY_FENCE = re.compile(rf"^```\s*(?:{_COPY_BUTTONS})\s*\n?```[ \t]*$\n?", re.M)
COPY_COUNT = re.compile(r"Copy\d+ chars / \d+ words")
REGENERATED = re.compile(r"\A\d+ / \d+\s*")

# A parser's time grows with the square of their depth: half a minute for 150,000.
_NESTING = re.compile(r"<(/?)(?:div|section|article|blockquote|[uo]l|table|main|dl|pre)\b", re.I)


def is_page_markup(text: str) -> bool:
    """Whether an assistant's message is HTML, and not text or Markdown that speaks of HTML."""
    if "<" not in text:
        return False
    if _OPENING_TAG.match(text):
        return True
    return _CLOSING_TAG.search(_CODE.sub("", text)) is not None


def is_wrapped_by_page(text: str) -> bool:
    """Whether a reader's message stands in the page's own element; else it is text as typed."""
    found = _PAGE_DIV.match(text) if text.lstrip().startswith("<div") else None
    return found is not None and not set(_PAGE_CLASSES).isdisjoint(found[1].split())


def without_buttons(markdown: str) -> str:
    """Markdown that was copied from a page, without what its buttons said."""
    text = REGENERATED.sub("", markdown.strip())
    if "```" in text:
        text = _EMPTY_FENCE.sub("", text)
        text = _COPY_IN_FENCE.sub(r"\1\2\n", text)
    return text.strip()


def depth_of(html: str) -> int:
    """How deeply block elements nest, without a parser."""
    depth = deepest = 0
    for found in _NESTING.finditer(html):
        depth = max(0, depth - 1) if found[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest
