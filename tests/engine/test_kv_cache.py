import torch
from hypothesis import given
from hypothesis import strategies as st

from fastchat.engine.kv_cache import (
    BLOCK,
    GRANULE,
    KVCache,
    LayerShape,
    Region,
    Regions,
    common_length,
    region_view,
)


def cache(budget: int = 1024, longest: int = 512) -> KVCache:
    shape = LayerShape(
        kv_heads=2, key_dim=4, value_dim=4, dtype=torch.float32, device=torch.device("cpu")
    )
    return KVCache({0: shape}, budget=budget, longest=longest)


def opened(pool: KVCache, tokens: list[int], room: int = 8):
    source, n_shared = pool.find(tokens)
    return pool.open(list(tokens), room, source=source, n_shared=n_shared)


def finish(pool: KVCache, tokens: list[int]):
    """A finished text, all of its tokens computed, its keys being the tokens themselves."""
    text = opened(pool, tokens)
    assert text is not None
    keys = region_view(pool.keys[0], text.region, heads=2, dim=4)
    keys[:, : len(tokens)] = torch.tensor(tokens, dtype=torch.float32)[None, :, None]
    text.n_computed = len(tokens)
    pool.close(text, keep=True)
    return text


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=60))
def test_regions_never_overlap_and_all_room_comes_back(moves: list[tuple[bool, int]]) -> None:
    regions, held = Regions(1000), []
    for takes, number in moves:
        if takes:
            region = regions.allocate(number, high=number % 3 == 0)
            if region is not None:
                held.append(region)
        elif held:
            regions.release(held.pop(number % len(held)))
        places = [i for r in held for i in range(r.start, r.start + r.size)]
        assert len(places) == len(set(places)) == 1000 - regions.free
        assert all(0 <= i < 1000 for i in places)
    for region in held:
        regions.release(region)
    assert regions.allocate(1000) == Region(0, 1000)


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_the_common_length_is_the_first_difference(a: list[int], b: list[int]) -> None:
    n = common_length(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_a_prefix_is_copied_to_the_last_common_token() -> None:
    pool = cache()
    finish(pool, list(range(100)))
    text = opened(pool, [*range(75), *range(500, 520)])
    assert text is not None
    assert text.n_computed == text.n_reused == 75
    keys = region_view(pool.keys[0], text.region, heads=2, dim=4)
    assert keys[:, :75, 0].tolist() == [list(map(float, range(75)))] * 2


def test_the_last_token_is_always_left_to_compute() -> None:
    pool = cache()
    finish(pool, list(range(100)))
    text = opened(pool, list(range(100)))
    assert text is not None
    assert text.n_computed == 99


def test_live_texts_stay_low_and_finished_ones_move_high() -> None:
    pool = cache(budget=1024)
    first = opened(pool, list(range(60)), room=4)
    second = opened(pool, list(range(100, 160)), room=4)
    assert first is not None
    assert second is not None
    assert (first.region.start, second.region.start) == (0, 64)
    keys = region_view(pool.keys[0], first.region, heads=2, dim=4)
    keys[:, :60] = torch.arange(60.0)[None, :, None]
    first.n_computed = 60
    pool.close(first, keep=True)
    assert first.region == Region(960, 64)
    keys = region_view(pool.keys[0], first.region, heads=2, dim=4)
    assert keys[:, :60, 1].tolist() == [list(map(float, range(60)))] * 2
    third = opened(pool, list(range(300, 360)), room=4)
    assert third is not None
    assert third.region.start == 0


def test_a_text_is_taken_over_when_nothing_else_makes_room() -> None:
    pool = cache(budget=512, longest=512)
    finish(pool, list(range(400)))
    text = opened(pool, [*range(400), *range(900, 910)])
    assert text is not None
    assert text.n_reused == 400
    keys = region_view(pool.keys[0], text.region, heads=2, dim=4)
    assert keys[:, :400, 0].tolist() == [list(map(float, range(400)))] * 2
    assert pool.used == text.region.size


def test_short_common_beginnings_are_not_looked_for() -> None:
    pool = cache()
    finish(pool, list(range(100)))
    assert pool.find([*range(BLOCK - 1), 999, 998]) == (None, 0)


def test_equal_hashes_of_different_tokens_share_nothing() -> None:
    pool = cache()
    text = finish(pool, list(range(100)))
    other = [*range(300, 400)]
    pool._holders[hash((0, *other[:BLOCK]))] = {text: None}
    assert pool.find(other)[1] == 0


def test_the_least_recently_used_text_goes_first() -> None:
    pool = cache(budget=4 * 128, longest=128)
    first, second, third = (finish(pool, list(range(k, k + 100))) for k in (0, 1000, 2000))
    fourth = opened(pool, [*range(50), *range(5000, 5050)])
    assert fourth is not None
    assert fourth.n_reused == 50
    assert opened(pool, list(range(7000, 7100))) is not None
    assert pool.find(first.tokens)[1] == 100
    assert pool.find(third.tokens)[1] == 100
    assert pool.find(second.tokens) == (None, 0)


def test_growing_keeps_what_was_computed() -> None:
    pool = cache()
    text = opened(pool, list(range(60)), room=4)
    assert text is not None
    keys = region_view(pool.keys[0], text.region, heads=2, dim=4)
    keys[:, :60] = torch.arange(60.0)[None, :, None]
    text.n_computed = 60
    neighbour = opened(pool, list(range(900, 960)), room=4)
    assert neighbour is not None
    assert pool.ensure(text, 65)
    assert text.region.size >= 65
    keys = region_view(pool.keys[0], text.region, heads=2, dim=4)
    assert keys[:, :60, 3].tolist() == [list(map(float, range(60)))] * 2


def test_without_room_a_text_does_not_grow_and_none_opens() -> None:
    pool = cache(budget=256, longest=256)
    held = [opened(pool, list(range(k, k + 60)), room=4) for k in (0, 100, 200, 300)]
    assert None not in held
    assert opened(pool, list(range(900, 910))) is None
    assert held[0] is not None
    assert not pool.ensure(held[0], 65)
    assert held[1] is not None
    pool.close(held[1], keep=False)
    assert pool.used == 256 - GRANULE


def test_what_is_not_kept_leaves_only_numbers() -> None:
    pool = cache()
    text = opened(pool, list(range(100)))
    assert text is not None
    region_view(pool.values[0], text.region, heads=2, dim=4).fill_(float("nan"))
    pool.close(text, keep=False)
    again = opened(pool, list(range(300, 400)))
    assert again is not None
    assert again.region.start == text.region.start
    assert region_view(pool.values[0], again.region, heads=2, dim=4).isfinite().all()
    assert pool.find(list(range(100))) == (None, 0)
