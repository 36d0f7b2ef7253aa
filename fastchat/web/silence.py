"""What stays of a record when nothing that was said is to be kept: who met, and how it ended."""

from dataclasses import replace

from fastchat.arena.events import Event
from fastchat.store.arena_records import (
    Record,
    StoredBattle,
    StoredConversation,
    StoredFlag,
    StoredVote,
)


def without_texts(record: Record) -> Record:
    """The record without what was said. A shared page keeps it: somebody asked to show it."""
    match record:
        case StoredConversation():
            return _silent(record)
        case StoredBattle():
            return _silent_battle(record)
        case StoredVote():
            return replace(record, battle=_silent_battle(record.battle))
        case StoredFlag():
            return replace(record, conversation=_silent(record.conversation))
        case _:
            return record


def line_without_texts(line: Event) -> Event:
    """The line of the log without what was said."""
    states = tuple(replace(state, messages=(), system_message="") for state in line.states)
    return replace(line, states=states)


def _silent(conversation: StoredConversation) -> StoredConversation:
    return replace(conversation, messages=())


def _silent_battle(battle: StoredBattle) -> StoredBattle:
    return replace(battle, a=_silent(battle.a), b=_silent(battle.b))
