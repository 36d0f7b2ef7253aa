"""Lists that are read a page at a time: what to ask for, and how a page looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from starlette.datastructures import QueryParams

from fastchat.errors import UsageError

PAGE = frozenset({"limit", "order", "after"})
"""The parameters of an address that say which page is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which page of a list is wanted."""

    limit: int
    order: Literal["asc", "desc"]
    """By time of making."""
    after: str | None
    """The id of the last entry of the page before."""


def read_page(query: QueryParams, *, most: int, usual: int) -> PageRequest:
    """The page that a query asks for.

    Raises:
        UsageError: a value is out of its range.
    """
    text = query.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 8 and 1 <= int(text) <= most):
        raise UsageError(f"`limit` must be a whole number from 1 to {most}.", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise UsageError("`order` must be `asc` or `desc`.", param="order")
    return PageRequest(
        limit=int(text),
        order=cast(Literal["asc", "desc"], order),
        after=query.get("after"),
    )


def page_of(entries: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The body of one page."""
    return {
        "object": "list",
        "data": list(entries),
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }
