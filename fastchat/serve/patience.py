"""Time limits on others that do not count the time in which this process itself stood still.

A process may stand still for seconds: its machine is short of time, was moved, or slept. What came
meanwhile lies there unread, so whoever sent it must not be judged before it has been looked at.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LATE_S = 0.5
"""A timer that rings this much after its time was held up by ourselves."""
_MORE_ROUNDS = 3


def lost_s(waited_s: float, meant_s: float) -> float:
    """Of a wait that was meant to take `meant_s`, how long the process stood still; seconds."""
    late_s = waited_s - meant_s
    return late_s if late_s > LATE_S else 0.0


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, but begins anew, a few times at most, where it ends late.

    Raises:
        TimeoutError: the block took longer.
    """
    loop = asyncio.get_running_loop()

    def ring(due: float, rounds: int) -> None:
        nonlocal timer
        if rounds and lost_s(loop.time(), due):
            due = loop.time() + seconds
            timer = loop.call_at(due, ring, due, rounds - 1)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        due = loop.time() + seconds
        timer = loop.call_at(due, ring, due, _MORE_ROUNDS)
        try:
            yield
        finally:
            timer.cancel()
