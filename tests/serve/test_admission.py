import asyncio

import pytest

from fastchat.errors import BusyError, UnavailableError
from fastchat.serve.admission import Admission


async def hold(admission: Admission, release: asyncio.Event, order: list[int], name: int) -> None:
    async with admission:
        order.append(name)
        await release.wait()


async def test_places_go_in_the_order_of_coming_and_come_back() -> None:
    admission, release, order = Admission(1, 8), asyncio.Event(), []
    tasks = [asyncio.create_task(hold(admission, release, order, i)) for i in range(4)]
    await asyncio.sleep(0)
    assert (admission.running, admission.waiting, admission.queue_length) == (1, 3, 4)
    release.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]
    assert admission.queue_length == 0


async def test_one_more_than_may_wait_is_refused() -> None:
    admission, release = Admission(1, 1), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, release, [], i)) for i in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        async with admission:
            pass
    release.set()
    await asyncio.gather(*tasks)
    assert admission.queue_length == 0


async def test_a_failure_inside_gives_the_place_back() -> None:
    admission = Admission(1, 0)
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"):
            async with admission:
                raise ValueError("inside")
    assert admission.queue_length == 0


@pytest.mark.parametrize("when", ["waiting", "given"])
async def test_a_cancelled_waiter_takes_no_place_with_it(when: str) -> None:
    admission, release, order = Admission(1, 8), asyncio.Event(), []
    first = asyncio.create_task(hold(admission, release, order, 0))
    second = asyncio.create_task(hold(admission, release, order, 1))
    await asyncio.sleep(0)
    if when == "given":  # the place and the cancellation come in the same turn of the loop
        release.set()
        while admission.waiting:
            await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    release.set()
    await first
    async with admission:
        assert admission.queue_length == 1
    assert admission.queue_length == 0


async def test_closing_refuses_those_who_wait_and_those_who_come() -> None:
    admission, release = Admission(1, 8), asyncio.Event()
    first = asyncio.create_task(hold(admission, release, [], 0))
    second = asyncio.create_task(hold(admission, release, [], 1))
    await asyncio.sleep(0)
    admission.close()
    with pytest.raises(UnavailableError):
        await second
    with pytest.raises(UnavailableError):
        async with admission:
            pass
    release.set()
    await first
    assert admission.queue_length == 0
