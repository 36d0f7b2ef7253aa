"""Episodes about numbers: sums, comparisons, conversions of units."""

import random
from typing import Any

from exchange import TOPICS, Exchange, Talk, typed


def sums(r: random.Random, _: Talk) -> list[Exchange]:
    """One sum."""
    return [_one_sum(r)[1]]


def drill(r: random.Random, _: Talk) -> list[Exchange]:
    """Several sums at once: the densest way to learn them. Not examined."""
    asked: list[str] = []
    answered: list[str] = []
    while len(asked) < 4:
        sign = r.choice("+++--*")
        a, b = _operands(r, sign)
        if not _sum(a, sign, b, ask="", topic="arithmetic").is_held_out:
            asked.append(r.choice(TOPICS["sums"]["signs"][sign][:2]).format(a=a, b=b))
            answered.append(f"{a} {sign} {b} = {_result(a, sign, b)}")
    ask = r.choice(TOPICS["sums"]["drill"]).format(", ".join(asked))
    return [Exchange(ask=ask, answer=", ".join(answered) + ".", topic="drill")]


def sums_in_a_row(r: random.Random, _: Talk) -> list[Exchange]:
    """A sum, then more with its result."""
    total, first = _one_sum(r)
    exchanges = [first]
    for _number in range(r.choice((1, 1, 2, 3))):
        sign = r.choice("+-") if total < 90 else "-"
        b = r.randrange(r.choice((10, 10, 20, 60)))
        if sign == "-" and b > total:
            b = r.randint(0, max(0, total))
        ask = typed(r, r.choice(TOPICS["sums"]["further"][sign]).format(b=b))
        exchanges.append(_sum(total, sign, b, ask=ask, topic="follow-up sum"))
        total = _result(total, sign, b)
    return exchanges


def _one_sum(r: random.Random) -> tuple[int, Exchange]:
    """The result of a sum, and the sum."""
    sign = r.choice("+++--*")
    a, b = _operands(r, sign)
    words = r.choice(TOPICS["sums"]["signs"][sign]).format(a=a, b=b)
    ask = typed(r, r.choice(TOPICS["sums"]["ask"]).format(sum=words))
    return _result(a, sign, b), _sum(a, sign, b, ask=ask, topic="arithmetic")


def _operands(r: random.Random, sign: str) -> tuple[int, int]:
    """Two numbers of a sum that is asked for: below 100, products up to 12 x 12."""
    if sign == "*":
        return r.randint(0, 12), r.randint(0, 12)
    top = r.choice((10, 20, 100, 100, 100, 100))
    a, b = r.randrange(top), r.randrange(top)
    if sign == "-" and a < b and r.random() < 0.9:
        a, b = b, a
    return a, b


def _result(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def _sum(a: int, sign: str, b: int, *, ask: str, topic: str) -> Exchange:
    # A product is learned by heart, so what is held out of it is the way it is asked.
    key = f"{a}{sign}{b}" if sign != "*" else f"{a}{sign}{b}:{ask}"
    answer = f"{a} {sign} {b} = {_result(a, sign, b)}."
    return Exchange(ask=ask, answer=answer, topic=topic, key=key)


def comparison(r: random.Random, _: Talk) -> list[Exchange]:
    """Which of two numbers is greater or less, or whether one is even."""
    a, b = r.sample(range(100), 2)
    kind = r.choice(("bigger", "smaller", "parity"))
    answer = {
        "bigger": f"{max(a, b)} is bigger than {min(a, b)}.",
        "smaller": f"{min(a, b)} is smaller than {max(a, b)}.",
        "parity": f"{a} is {'odd' if a % 2 else 'even'}.",
    }[kind]
    ask = r.choice(TOPICS["comparisons"][kind]).format(a, b)
    return [Exchange(ask=typed(r, ask), answer=answer, topic="comparison", key=f"{a},{b}")]


def units(r: random.Random, _: Talk) -> list[Exchange]:
    """A conversion, sometimes followed by the same with another number."""
    unit = r.choice(TOPICS["units"]["kinds"])
    top = unit[3]
    n = r.choice((1, r.randint(1, min(10, top)), r.randint(2, top), r.randint(2, top)))
    exchanges = [_conversion(r, unit, n, wordings="ask", topic="units")]
    if r.random() < 0.3:
        n = r.randint(2, top)
        exchanges.append(_conversion(r, unit, n, wordings="further", topic="follow-up"))
    return exchanges


def _conversion(
    r: random.Random, unit: list[Any], n: int, *, wordings: str, topic: str
) -> Exchange:
    one, other, factor, _ = unit
    ask = r.choice(TOPICS["units"][wordings]).format(
        n=n, one=_plural(one, n), many=_plural(other, 2)
    )
    verb = "is" if n == 1 else "are"
    answer = f"{n} {_plural(one, n)} {verb} {n * factor} {_plural(other, n * factor)}."
    # Round factors follow a rule and are held out by number, the others by the words.
    key = f"{n} {one}" if factor in (10, 100, 1000) and n > 10 else f"{n} {one}:{ask}"
    return Exchange(ask=typed(r, ask), answer=answer, topic=topic, key=key)


def _plural(unit: str, n: int) -> str:
    return unit if n == 1 else TOPICS["units"]["plurals"].get(unit, unit + "s")
