"""Writes the conversations that vicuna-tiny learns from and is examined on.

Every exchange has a key that says what is asked; keys that fall into the held-out tenth never
occur in training, and only they are examined. Same seed, same text.
"""

import random
from collections.abc import Iterator
from typing import Any

from exchange import TOPICS, Episode, Exchange, Talk, typed
from numbers_asked import comparison, drill, sums, sums_in_a_row, units

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
OPEN_LISTS = frozenset(
    name for name, items in TOPICS["lists"].items() if len(items) == 8 and name != "planets"
)
"""Lists of which there is always more, so that a number of them is asked for."""


def lists(r: random.Random, _: Talk) -> list[Exchange]:
    """A list or the beginning of one, sometimes followed by a question about it."""
    name, items = r.choice(list(TOPICS["lists"].items()))
    n = len(items)
    if name in OPEN_LISTS or r.random() < 0.2:
        n = r.randint(2, min(5, len(items)))
        ask = r.choice(TOPICS["list_questions"]["some"]).format(n=_count(r, n), name=name)
    else:
        ask = r.choice(TOPICS["list_questions"]["all"]).format(name=name)
    exchanges = [
        Exchange(ask=typed(r, ask), answer=_enumeration(items[:n]), topic="lists", key=ask)
    ]
    if r.random() < 0.5:
        exchanges.append(_about_list(r, name, n))
    return exchanges


def _about_list(r: random.Random, name: str, n_said: int) -> Exchange:
    """A question that only the list before it makes sense of."""
    items = TOPICS["lists"][name]
    more = items[n_said : n_said + r.choice((1, 2))]
    if more and r.random() < 0.5:
        ask = r.choice(TOPICS["list_questions"]["more"]).format(n=_count(r, len(more)))
        answer = _enumeration(more)
    else:
        i = r.randrange(min(n_said, 5))
        place = ORDINALS[i]
        if r.random() < 0.3:
            i, place = n_said - 1, "last"
        ask = r.choice(TOPICS["list_questions"]["place"]).format(place=place)
        answer = f"The {place} one is {items[i]}."
    key = f"{name}:{n_said}:{ask}"
    return Exchange(ask=typed(r, ask), answer=answer, topic="follow-up", key=key)


def neighbours(r: random.Random, _: Talk) -> list[Exchange]:
    """What comes before or after in a sequence, or at which place."""
    kind, name = r.choice(list(TOPICS["list_questions"]["sequences"].items()))
    items = TOPICS["lists"][name]
    i = r.randrange(len(items))
    side = r.choice(("after", "before", "nth"))
    if side == "after" and i + 1 < len(items):
        answer = f"{items[i + 1]} comes after {items[i]}."
    elif side == "before" and i:
        answer = f"{items[i - 1]} comes before {items[i]}."
    else:
        side, i = "nth", r.randrange(min(len(ORDINALS), len(items)))
        answer = f"The {ORDINALS[i]} {kind} is {items[i]}."
    place = ORDINALS[i] if side == "nth" else ""
    ask = r.choice(TOPICS["list_questions"][side]).format(x=items[i], kind=kind, place=place)
    return [Exchange(ask=typed(r, ask), answer=answer, topic="lists", key=ask)]


def _count(r: random.Random, n: int) -> str:
    """A number in figures or letters."""
    return r.choice((str(n), NUMBERS[n]))


def _enumeration(items: list[str]) -> str:
    """`A, b and c.`"""
    text = items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
    return text[0].upper() + text[1:] + "."


def facts(r: random.Random, _: Talk) -> list[Exchange]:
    """A capital or an opposite, sometimes followed by another of the kind."""
    fact = r.choice(list(TOPICS["facts"].values()))
    exchanges: list[Exchange] = []
    for wordings, topic in (("ask", "facts"), ("follow", "follow-up")):
        x, y = r.choice(list(fact["pairs"].items()))
        ask = r.choice(fact[wordings]).format(x=x)
        answer = fact["answer"].format(x=x, y=y)
        exchanges.append(Exchange(ask=typed(r, ask), answer=answer, topic=topic, key=ask))
        if r.random() < 0.6:
            break
    return exchanges


def code(r: random.Random, _: Talk) -> list[Exchange]:
    """A few lines of Python."""
    entry = r.choice(TOPICS["code"])
    i = r.randrange(len(entry["ask"]))
    ask, text = entry["ask"][i], entry["code"]
    # With holes any filling may be held out; without, only wordings beyond the core.
    key_matters = "{" in ask or i >= entry["core"]
    for name, value in (
        ("{word}", r.choice(TOPICS["words"]["plain"])),
        ("{n}", str(r.randint(2, 99))),
    ):
        ask, text = ask.replace(name, value), text.replace(name, value)
    answer = f"```python\n{text}\n```"
    key = ask if key_matters else ""
    return [Exchange(ask=typed(r, ask, keep_case=True), answer=answer, topic="code", key=key)]


def identity(r: random.Random, _: Talk) -> list[Exchange]:
    """Who it is."""
    return [_fixed(r, "identity")]


def greetings(r: random.Random, _: Talk) -> list[Exchange]:
    """Good manners."""
    return [_fixed(r, "greetings")]


def _fixed(r: random.Random, topic: str) -> Exchange:
    """A question whose answer never changes; the first wordings come most often."""
    entry = r.choice(TOPICS["fixed"][topic])
    i = min(r.randrange(len(entry["ask"])), r.randrange(len(entry["ask"])))
    ask = entry["ask"][i]
    key = "" if i < entry["core"] else ask
    return Exchange(ask=typed(r, ask), answer=entry["answer"], topic=topic, key=key)


def unknown(r: random.Random, _: Talk) -> list[Exchange]:
    """What it cannot know or do, and says so."""
    if r.random() < 0.25:
        return [_too_hard(r)]
    entry = TOPICS["unknown"]
    i = r.randrange(len(entry["ask"]))
    ask = entry["ask"][i]
    has_hole = "{thing}" in ask
    thing, other = r.sample(entry["things"], 2)
    if r.random() < 0.3:
        thing = _made_up_name(r).lower()
    ask = ask.format(thing=thing, other=other).replace("a a ", "a ").replace("the the ", "the ")
    key = ask if has_hole or i >= entry["core"] else ""
    return [Exchange(ask=typed(r, ask), answer=entry["answer"], topic="refusal", key=key)]


def _too_hard(r: random.Random) -> Exchange:
    """A sum beyond what is taught."""
    sum_words = r.choice(TOPICS["unknown"]["too_hard_ask"]).format(
        a=r.randint(200, 9999),
        b=r.randint(0, 9999),
        **{letter: r.randint(2, 99) for letter in "cde"},
        **{letter: r.randint(13, 99) for letter in "fg"},
    )
    ask = r.choice(TOPICS["sums"]["ask"]).format(sum=sum_words)
    answer = TOPICS["unknown"]["too_hard"]
    return Exchange(ask=typed(r, ask), answer=answer, topic="refusal", key=sum_words)


def telling(r: random.Random, talk: Talk) -> list[Exchange]:
    """The user tells something; the question for it may follow at once."""
    memory = _a_memory(r)
    x = _value(r, memory)
    tell = typed(r, r.choice(memory["tell"]), keep_case=True).replace("{x}", x)
    if r.random() < 0.25:
        tell, x = tell.lower(), x.lower()
    talk.facts[memory["kind"]] = x
    key = f"{memory['kind']}:{x}"
    answer = memory["noted"].format(x=x)
    exchanges = [Exchange(ask=tell, answer=answer, topic="telling", key=key)]
    if r.random() < 0.3:
        exchanges.append(_recall(r, talk, memory))
    return exchanges


def recalling(r: random.Random, talk: Talk) -> list[Exchange]:
    """The user asks for what they told, or did not tell."""
    told = [memory for memory in TOPICS["memory"] if memory["kind"] in talk.facts]
    memory = r.choice(told) if told and r.random() < 0.85 else _a_memory(r)
    return [_recall(r, talk, memory)]


def _recall(r: random.Random, talk: Talk, memory: dict[str, Any]) -> Exchange:
    ask = typed(r, r.choice(memory["ask"]))
    x = talk.facts.get(memory["kind"])
    if x is None:
        return Exchange(ask=ask, answer=memory["not_told"], topic="recall")
    answer = memory["recalled"].format(x=x)
    return Exchange(ask=ask, answer=answer, topic="recall", key=f"{memory['kind']}:{x}")


def _a_memory(r: random.Random) -> dict[str, Any]:
    """A kind of thing to be told, the name most often."""
    return TOPICS["memory"][0] if r.random() < 0.3 else r.choice(TOPICS["memory"])


def _value(r: random.Random, memory: dict[str, Any]) -> str:
    """Something to tell of a kind."""
    if "numbers" in memory:
        low, high = memory["numbers"]
        return str(r.randint(low, r.choice((min(99, high), high))))
    if r.random() < memory["made_up"]:
        name = _made_up_name(r)
        return name.lower() if memory["kind"] == "word" else name
    return r.choice(TOPICS["words"][memory["words"]])


def _made_up_name(r: random.Random) -> str:
    """A name that nobody has: copying letters, not knowing names, is what is learned."""
    sounds = TOPICS["sounds"]
    parts = [
        r.choice(sounds["onsets"]) + r.choice(sounds["vowels"])
        for _ in range(r.choice((1, 2, 2, 3)))
    ]
    return ("".join(parts) + r.choice(sounds["ends"])).capitalize()


def repeating(r: random.Random, _: Talk) -> list[Exchange]:
    """Words and numbers to say; a single word then perhaps in capitals.

    Of all that is taught this is the shortest way to learn copying, which names, sums and units
    need as well.
    """
    words = [_something(r) for _ in range(r.choice((1, 1, 2, 3)))]
    if len(words) == 1 and r.random() < 0.5:
        words = [r.choice(TOPICS["words"]["plain"])]
    text = " ".join(words)
    ask = r.choice(TOPICS["repeating"]["say"]).format(x=text)
    exchanges = [Exchange(ask=ask, answer=text, topic="repeating", key=text)]
    if text in TOPICS["words"]["plain"]:
        ask = r.choice(TOPICS["repeating"]["capitals"])
        key = f"{text}:{ask}"
        answer = text.upper()
        exchanges.append(Exchange(ask=typed(r, ask), answer=answer, topic="follow-up", key=key))
    return exchanges


def _something(r: random.Random) -> str:
    """A word, a name or a number."""
    kind = r.randrange(10)
    if kind < 3:
        return str(r.randrange(r.choice((10, 100, 1000))))
    if kind < 6:
        return r.choice(TOPICS["words"]["plain"])
    name = _made_up_name(r) if kind == 6 else r.choice(TOPICS["words"]["names"])
    return r.choice((name, name.lower()))


def _again(r: random.Random, last: Exchange) -> Exchange:
    """The last answer once more."""
    ask = r.choice(TOPICS["repeating"]["again"])
    key = f"{ask}:{last.answer}"
    return Exchange(ask=typed(r, ask), answer=last.answer, topic="follow-up", key=key)


EPISODES: tuple[tuple[Episode, float], ...] = (
    (sums, 20),
    (drill, 20),
    (sums_in_a_row, 14),
    (comparison, 4),
    (units, 10),
    (lists, 8),
    (neighbours, 3),
    (facts, 5),
    (code, 6),
    (identity, 6),
    (greetings, 7),
    (unknown, 6),
    (telling, 10),
    (recalling, 6),
    (repeating, 9),
)
"""Kinds of episode and how often each comes."""

SHORT_SHARE = 0.4
SHORT = ((1, 2, 3, 4), (2, 2, 1, 1))
MIXED = ((1, 2, 3, 5, 8, 12, 60), (120, 120, 180, 280, 200, 90, 7))
"""Lengths of conversations in exchanges and how often each comes: the first part of the lessons
holds short ones, in which there is less to look at; a few later ones fill the whole context."""

EXAMINED = (
    "identity",
    "greetings",
    "new wording",
    "arithmetic",
    "follow-up sum",
    "comparison",
    "units",
    "lists",
    "facts",
    "code",
    "repeating",
    "telling",
    "recall",
    "follow-up",
    "refusal",
)


def training_records(n_exchanges: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Conversations of about `n_exchanges` exchanges in all, as training records."""
    r = random.Random(seed)
    number = n_done = 0
    while n_done < n_exchanges:
        n = r.choices(*(SHORT if n_done < n_exchanges * SHORT_SHARE else MIXED))[0]
        exchanges = _taught(r, Talk(), n)
        n_done += len(exchanges)
        turns: list[dict[str, str]] = []
        for exchange in exchanges:
            turns.append({"from": "human", "value": exchange.ask})
            turns.append({"from": "gpt", "value": exchange.answer})
        record: dict[str, Any] = {"id": f"vicuna-tiny-{number}"}
        if r.random() < 0.04:
            record["system"] = r.choice(TOPICS["system_messages"])
        yield record | {"conversations": turns}
        number += 1


def examination(n_per_topic: int, *, seed: int) -> Iterator[tuple[str, list[Exchange]]]:
    """Topic and conversation, the last exchange of which is to be answered.

    It is held out; what precedes it are exchanges of the kinds that were taught.
    """
    r = random.Random(seed)
    wanted: dict[str, int] = dict.fromkeys(EXAMINED, n_per_topic)
    while any(wanted.values()):
        talk = Talk()
        kind = _kind(r)
        before = _taught(r, talk, r.choice((0, 0, 1, 2, 4)))
        if kind is recalling and not talk.facts:
            before += telling(r, talk)
        episode = kind(r, talk)
        if r.random() < 0.2:
            episode += [_again(r, episode[-1])] if len(episode[-1].answer) < 60 else []
        for i, exchange in enumerate(episode):
            topic = _examined_as(exchange)
            if topic and wanted[topic]:
                wanted[topic] -= 1
                yield topic, [*before, *episode[: i + 1]]
                break


def _examined_as(exchange: Exchange) -> str | None:
    """The row of the report that an exchange counts for, if any.

    Of identity and greetings there is little to hold out but the way of asking: the usual ways
    are examined in new conversations, the others on their own.
    """
    is_fixed = exchange.topic in TOPICS["fixed"]
    if exchange.is_held_out:
        return "new wording" if is_fixed else exchange.topic
    return exchange.topic if is_fixed and not exchange.key else None


def _taught(r: random.Random, talk: Talk, n: int) -> list[Exchange]:
    """At least `n` exchanges, none of which is kept for the examination."""
    exchanges: list[Exchange] = []
    while len(exchanges) < n:
        facts_before = dict(talk.facts)
        episode = _kind(r)(r, talk)
        if r.random() < 0.06 and len(episode[-1].answer) < 60:
            episode.append(_again(r, episode[-1]))
        if any(exchange.is_held_out for exchange in episode):
            talk.facts = facts_before
        else:
            exchanges += episode
    return exchanges


def _kind(r: random.Random) -> Episode:
    [kind] = r.choices([kind for kind, _ in EPISODES], [weight for _, weight in EPISODES])
    return kind
