"""Takes what belongs to a person out of texts: addresses, numbers, keys (`redaction.toml`).

What is found becomes `<REDACTED>`, and is counted by kind. Patterns find what has a form; names
and stories have none, so a release still needs a reader.
"""

import functools
import ipaddress
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pydantic

from fastchat.errors import DataError

MARK = "<REDACTED>"

_DATE = re.compile(r"(?:19|20)\d\d[ ./-]\d{1,2}[ ./-]\d{1,2}|\d{1,2}[./-]\d{1,2}[./-](?:19|20)\d\d")


class _Pattern(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    kind: str
    source: str
    regex: str
    check: Literal["luhn", "address", "iban", "digits"] | None = None


@dataclass(frozen=True, slots=True)
class Redactor:
    """Patterns, ready to be looked for."""

    patterns: tuple[tuple[str, re.Pattern[str], Callable[[str], bool] | None], ...]

    def redact(self, text: str, found: Counter[str]) -> str:
        """The text without what the patterns find, which is counted by kind."""
        for kind, pattern, check in self.patterns:
            text = pattern.sub(functools.partial(_replaced, kind, check, found), text)
        return text

    def redact_value(self, value: Any, found: Counter[str]) -> Any:
        """The same for every text within lists and objects; other values stay."""
        if isinstance(value, str):
            return self.redact(value, found)
        if isinstance(value, list | tuple):
            return [self.redact_value(item, found) for item in value]
        if isinstance(value, Mapping):
            return {key: self.redact_value(item, found) for key, item in value.items()}
        return value


def _replaced(
    kind: str, check: Callable[[str], bool] | None, found: Counter[str], match: re.Match[str]
) -> str:
    if MARK in match[0] or (check is not None and not check(match[0])):
        return match[0]
    found[kind] += 1
    if "secret" not in match.re.groupindex:
        return MARK
    start, end = match.span("secret")
    at = match.start()
    return match[0][: start - at] + MARK + match[0][end - at :]


def is_card(text: str) -> bool:
    """Whether the digits are those of a card: 13 to 19, the last one checking the others."""
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [2 * d - 9 * (d > 4) if i % 2 else d for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def is_address(text: str) -> bool:
    """Whether it is an IP address that says where somebody is: no version, no loopback."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def is_iban(text: str) -> bool:
    """Whether the check digits of an account number fit. Source: ISO 7064, MOD 97-10."""
    plain = text.replace(" ", "").upper()
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def is_number(text: str) -> bool:
    """Whether it has as many digits as a telephone number, and is no date."""
    return 8 <= sum(map(str.isdigit, text)) <= 15 and not _DATE.fullmatch(text.strip("() "))


_CHECKS: Mapping[str | None, Callable[[str], bool]] = {
    "luhn": is_card,
    "address": is_address,
    "iban": is_iban,
    "digits": is_number,
}


@functools.cache
def redactor() -> Redactor:
    """The patterns that ship."""
    text = resources.files("fastchat.arena").joinpath("redaction.toml").read_text("utf-8")
    return _redactor(text, "redaction.toml")


def read_redactor(path: Path) -> Redactor:
    """The patterns of a person's own file, laid out as `redaction.toml`.

    Raises:
        DataError: the file is missing or not what it should be; the message says where.
    """
    try:
        return _redactor(path.read_text("utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _redactor(text: str, name: str) -> Redactor:
    made: list[tuple[str, re.Pattern[str], Callable[[str], bool] | None]] = []
    number = 0
    try:
        for entry in tomllib.loads(text).get("pattern", []):
            number += 1
            pattern = _Pattern.model_validate(entry)
            made.append((pattern.kind, re.compile(pattern.regex), _CHECKS.get(pattern.check)))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{name} is no TOML: {error}.") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{name}: pattern {number}: {where}: {first['msg']}.") from None
    except re.error as error:
        raise DataError(f"{name}: pattern {number}: {error}.") from None
    return Redactor(tuple(made))
