"""Which language a conversation is in.

The scripts of Korean, Japanese and Chinese tell them apart, also in a text that is half
English; for all others CLD2 decides, which a wheel carries. Code, tables, formulas, markup and
addresses say nothing about a language and are left out.
"""

import re
from collections.abc import Iterable, Sequence

from fastchat.data.optional import pycld2
from fastchat.errors import UsageError

UNKNOWN = "unknown"

N_LETTERS = 640
"""Read of a conversation: enough for a language, and of several messages something."""
N_LETTERS_OF_MESSAGE = 240
CJK = frozenset(("ja", "ko", "zh"))
CJK_WEIGHT = 4
"""Letters of an alphabet that one character of these scripts stands for."""

# What the cut left open reaches to the end. Every alternative begins with a letter of its own:
# that is what makes the search quick.
_WITHOUT_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?(?:\$\$|\Z)|\$[^$\n]+\$"
    r"|<(pre|code|table|math|annotation)\b.*?(?:</\1>|\Z)|<[^<>\n]{1,200}>"
    r"|\n\|[^\n]*|://\S+",
    re.DOTALL,
)
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]+")
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30ff\uff66-\uff9d]+")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002a6df]+")
_ANY_CJK = re.compile(
    "[\u1100-\u11ff\u3041-\u30ff\u3131-\u318e\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uff66-\uff9d\U00020000-\U0002a6df]"
)
_LETTERS = re.compile(r"[^\W\d_]+")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]+")

# CLD2's older names.
_RENAMED = {"iw": "he", "jw": "jv", "zh-Hant": "zh"}


def detect_language(texts: Iterable[str]) -> str:
    """The ISO 639 code of the language of a conversation's messages, or `unknown`."""
    cld2 = pycld2()
    text = sample(texts)
    if not text.isascii() and (code := _by_script(text)):
        return code
    try:
        _, _, guesses = cld2.detect(text)
    except cld2.error:
        try:
            # It refuses control characters.
            _, _, guesses = cld2.detect(_CONTROLS.sub(" ", text))
        except cld2.error:
            return UNKNOWN
    code = str(guesses[0][1])
    code = _RENAMED.get(code, code)
    return UNKNOWN if code == "un" or code.startswith("xx") else code


def may_be_cjk(texts: Iterable[str]) -> bool:
    """Whether detection could answer Korean, Japanese or Chinese; much quicker than to ask it."""
    return any(not text.isascii() and _ANY_CJK.search(text) for text in texts)


def sample(texts: Iterable[str]) -> str:
    """The beginnings of the messages, without what has no language."""
    parts: list[str] = []
    n_letters = 0
    for text in texts:
        part = _WITHOUT_LANGUAGE.sub("\n", text[: 4 * N_LETTERS_OF_MESSAGE])
        part = part[:N_LETTERS_OF_MESSAGE]
        parts.append(part)
        n_letters += len(part)
        if n_letters >= N_LETTERS:
            break
    return "\n".join(parts)


def check_codes(codes: Sequence[str], *, flag: str) -> frozenset[str]:
    """The codes, each one that detection can give.

    Raises:
        UsageError: a code is unknown.
    """
    known = known_codes()
    for code in codes:
        if code not in known:
            raise UsageError(
                f"{flag} {code!r} is no language that can be told; give ISO 639 codes such as "
                "en, ko or zh, separated by commas."
            )
    return frozenset(codes)


def known_codes() -> frozenset[str]:
    """Every code that detection can give."""
    named = {str(code) for _, code in pycld2().LANGUAGES}
    codes = {_RENAMED.get(code, code) for code in named}
    return frozenset(code for code in codes if not code.startswith(("xx", "un"))) | {UNKNOWN}


def _by_script(text: str) -> str | None:
    """Korean, Japanese or Chinese, where their characters outweigh all other letters."""
    if not _ANY_CJK.search(text):
        return None
    n_hangul, n_kana, n_han = (_count(script, text) for script in (_HANGUL, _KANA, _HAN))
    n_cjk = n_hangul + n_kana + n_han
    n_others = _count(_LETTERS, text) - n_cjk
    if CJK_WEIGHT * n_cjk <= max(n_others, 0):
        return None
    if n_hangul >= max(n_kana, n_han):
        return "ko"
    # Chinese has no kana; Japanese mixes both.
    return "ja" if 20 * n_kana >= n_han else "zh"


def _count(script: re.Pattern[str], text: str) -> int:
    return sum(map(len, script.findall(text)))
