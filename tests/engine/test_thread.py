from fastchat.engine.thread import ModelThread


async def test_a_step_that_raises_does_not_end_the_thread() -> None:
    calls: list[int] = []

    def step() -> bool:
        calls.append(1)
        raise RuntimeError("a step that should not raise")

    thread = ModelThread()
    await thread.run(thread.set_step, step)
    assert await thread.run(lambda: 5) == 5
    assert await thread.run(lambda: 6) == 6
    await thread.run(thread.set_step, None)
    assert calls
    await thread.close()
