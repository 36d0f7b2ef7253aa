"""The language of a prompt, by its English name: "English", "Chinese", or "unknown"."""

import re
from typing import Any

from fastchat.errors import UsageError

UNKNOWN = "unknown"

_LONGEST = 2000
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]+")
_SCRIPTS = {
    "Korean": re.compile("[\uac00-\ud7a3]"),
    "Japanese": re.compile("[\u3041-\u309f\u30a1-\u30fa]"),
    "Chinese": re.compile("[\u3400-\u4dbf\u4e00-\u9fff]"),
}
"""Scripts that tell, in the order they are asked; Japanese is also written with Chinese signs."""
_SCRIPT_SHARE = 0.2
_RENAMED = {"Chineset": "Chinese", "Norwegian_N": "Norwegian", "Unknown": UNKNOWN}


def detect(text: str) -> str:
    """The language of `text`; code and addresses of the web say nothing about it.

    Raises:
        UsageError: the library that tells languages apart is not installed.
    """
    words = _CONTROLS.sub(" ", _CODE.sub(" ", text[:_LONGEST]))
    n_letters = sum(map(str.isalpha, words))
    if not n_letters:
        return UNKNOWN
    for language, script in _SCRIPTS.items():
        if len(script.findall(words)) > _SCRIPT_SHARE * n_letters:
            return language
    library = _cld2()
    try:
        _, _, guesses = library.detect(words)
    except library.error:
        return UNKNOWN
    name = str(guesses[0][0]).capitalize()
    return UNKNOWN if name.startswith("X_") else _RENAMED.get(name, name)


def _cld2() -> Any:
    try:
        import pycld2
    except ImportError:
        raise UsageError("telling languages apart needs: pip install 'fschat[arena]'.") from None
    return pycld2
