import random
from collections import Counter
from typing import Any

from fastchat.serve.endpoints import Endpoint
from fastchat.serve.router import Change, Listing, Router, diff


def endpoint(name: str, *models: str, **fields: Any) -> Endpoint:
    return Endpoint(name=name, model_names=models or ("m",), **fields)


def router_of(*endpoints: Endpoint, **fields: Any) -> Router:
    router = Router(**fields)
    for one in endpoints:
        router.register(one, now=0.0)
    return router


def picked(router: Router, *, avoid: tuple[str, ...] = (), now: float = 0.0) -> str | None:
    found = router.pick("m", now=now, avoid=avoid)
    return found and found.name


def test_an_unknown_model_has_no_endpoint() -> None:
    assert Router().pick("m", now=0.0) is None


def test_the_first_registered_wins_among_equals() -> None:
    assert picked(router_of(endpoint("a"), endpoint("b"))) == "a"


def test_requests_in_flight_spread_over_the_endpoints() -> None:
    router = router_of(endpoint("a"), endpoint("b"), endpoint("c"))
    chosen = []
    for _ in range(6):
        name = picked(router)
        assert name is not None
        router.start(name)
        chosen.append(name)
    assert chosen == ["a", "b", "c", "a", "b", "c"]
    router.finish("b")
    assert picked(router) == "b"


def test_a_queue_counts_against_the_speed() -> None:
    router = router_of(endpoint("slow", speed=1.0), endpoint("fast", speed=4.0))
    router.report_load("slow", 2)
    router.report_load("fast", 4)
    assert picked(router) == "fast"
    assert router.load("fast") == 1.0


def test_a_reported_queue_does_not_count_our_own_requests_twice() -> None:
    router = router_of(endpoint("a"), endpoint("b"))
    for _ in range(3):
        router.start("a")
    router.report_load("a", 5)  # three of these are ours
    assert router.load("a") == 5.0
    for _ in range(3):
        router.finish("a")
    assert router.load("a") == 2.0


def test_an_address_handed_out_counts_until_the_next_heart_beat() -> None:
    router = router_of(endpoint("a"), endpoint("b"))
    router.hand_out("a")
    assert picked(router) == "b"
    assert router.queue_length("a") == 1
    assert router.heartbeat("a", 0, now=1.0)
    assert picked(router) == "a"


def test_a_failed_endpoint_ranks_last_until_it_is_heard_of() -> None:
    router = router_of(endpoint("a"), endpoint("b"))
    router.report_failure("a", now=1.0)
    router.report_load("b", 100)
    assert picked(router) == "b"
    assert picked(router, avoid=("b",)) == "a"
    assert router.has_failed("a")
    assert [e.name for e in router.failing()] == ["a"]
    router.report_success("a", now=2.0)
    assert picked(router) == "a"


def test_a_load_heard_from_others_does_not_excuse_a_failure() -> None:
    router = router_of(endpoint("a"), endpoint("b"))
    router.report_failure("a", now=1.0)
    router.report_load("a", 0)
    assert picked(router) == "b"


def test_a_heart_beat_excuses_a_failure() -> None:
    router = router_of(endpoint("a"), endpoint("b"))
    router.report_failure("a", now=1.0)
    router.heartbeat("a", 0, now=2.0)
    assert picked(router) == "a"


def test_an_endpoint_that_is_down_is_not_offered_but_its_model_stays_known() -> None:
    router = router_of(endpoint("a", check="probe"))
    router.set_down("a")
    assert picked(router) is None
    assert router.models() == []
    assert router.snapshot() == {}
    assert router.serving("m") == []
    assert router.knows("m")
    router.report_success("a", now=5.0)
    assert picked(router) == "a"
    assert router.models() == ["m"]


def test_silence_beyond_the_expiry_ends_an_endpoint_that_owes_beats() -> None:
    router = router_of(
        endpoint("beats"), endpoint("probed", check="probe"), endpoint("left", check="never")
    )
    assert picked(router, now=90.0) == "beats"
    assert picked(router, now=90.1) == "probed"  # even before somebody sweeps
    assert router.expire(90.0) == []
    assert router.expire(90.1) == ["beats"]
    assert router.expire(1e9) == []
    assert router.get("beats") is None
    assert not router.heartbeat("beats", 0, now=91.0)


def test_a_probe_is_no_heart_beat() -> None:
    router = router_of(endpoint("a"))
    router.report_success("a", now=80.0)
    assert router.expire(100.0) == ["a"]


def test_registering_again_replaces_the_models_and_keeps_the_counts() -> None:
    router = router_of(endpoint("a", "m", "x"))
    router.start("a")
    router.register(endpoint("a", "m", "y"), now=1.0)
    assert router.models() == ["m", "y"]
    assert router.load("a") == 1.0
    assert len(router.endpoints()) == 1


def test_an_endpoint_leaves_once() -> None:
    router = router_of(endpoint("a"))
    assert router.unregister("a")
    assert not router.unregister("a")
    assert router.models() == []
    router.finish("a")
    router.start("a")  # a request that ends after its endpoint left disturbs nothing
    assert picked(router) is None


def test_the_lottery_draws_by_speed_among_the_live() -> None:
    router = router_of(
        endpoint("one", speed=1.0),
        endpoint("three", speed=3.0),
        endpoint("dead", speed=100.0),
        method="lottery",
        rng=random.Random(7),
    )
    router.report_failure("dead", now=0.0)
    counts = Counter(picked(router) for _ in range(4000))
    assert set(counts) == {"one", "three"}
    assert 0.7 < counts["three"] / 4000 < 0.8


def test_the_lottery_takes_a_failed_endpoint_rather_than_none() -> None:
    router = router_of(endpoint("a"), method="lottery")
    router.report_failure("a", now=0.0)
    assert picked(router) == "a"


def test_models_are_listed_by_kind() -> None:
    router = router_of(endpoint("a", "text"), endpoint("b", "eyes", multimodal=True))
    assert router.models() == ["eyes", "text"]
    assert router.models(multimodal=True) == ["eyes"]
    assert router.models(multimodal=False) == ["text"]


def test_a_better_place_is_one_that_did_not_fail() -> None:
    router = router_of(endpoint("a"), endpoint("b"))
    assert router.is_better_elsewhere("m", "a", now=0.0)
    router.report_failure("b", now=0.0)
    assert not router.is_better_elsewhere("m", "a", now=0.0)


def test_who_was_not_heard_of_is_known() -> None:
    router = router_of(endpoint("a"), endpoint("b"))
    router.heartbeat("b", 0, now=8.0)
    assert [e.name for e in router.unheard(10.0, for_s=10.0)] == ["a"]


def test_the_difference_of_two_snapshots_leads_from_one_to_the_other() -> None:
    router = router_of(endpoint("a"), endpoint("b"), endpoint("c"))
    before = router.snapshot()
    router.unregister("a")
    router.report_load("b", 3)
    router.register(endpoint("d"), now=1.0)
    changes = diff(before, router.snapshot())
    assert changes == [
        Change(name="a", listing=None),
        Change(name="b", listing=Listing(endpoint=endpoint("b"), queue_length=3)),
        Change(name="d", listing=Listing(endpoint=endpoint("d"))),
    ]
    assert diff(before, before) == []
