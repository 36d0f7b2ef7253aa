from typing import Any

import pytest

from fastchat.errors import UnprocessableError, UsageError
from fastchat.serve.endpoints import (
    AddressRules,
    describe,
    parse_address,
    plain_ip,
    read_endpoint,
    read_name,
    read_queue_length,
)


def registration(**fields: Any) -> dict[str, Any]:
    return {"worker_name": "http://localhost:21002", "check_heart_beat": True, **fields}


STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}


@pytest.mark.parametrize(
    ("url", "netloc", "prefix"),
    [
        ("http://localhost:21002", "localhost:21002", ""),
        ("http://localhost:21002/", "localhost:21002", ""),
        ("https://api.example.org/v1", "api.example.org", ""),
        ("https://api.example.org/team/v1/", "api.example.org", "/team"),
        ("http://[::1]:8000", "[::1]:8000", ""),
        ("http://10.0.0.1", "10.0.0.1", ""),
    ],
)
def test_an_address_is_taken_apart(url: str, netloc: str, prefix: str) -> None:
    address = parse_address(url)
    assert (address.netloc, address.prefix) == (netloc, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:21002",
        "file:///etc/passwd",
        "gopher://localhost:70",
        "http://",
        "http://:80",
        "http://user:secret@localhost:21002",
        "http://localhost:21002?x=1",
        "http://localhost:21002#x",
        "http://localhost:99999",
        "http://localhost:0",
        "http://local host:1",
        "http://allowed\\@127.0.0.1/",
        "http://localhost:1/\r\nHost: other",
        "http://[::1",
        "http://münchen.example",
        "http://" + "a" * 5000,
    ],
)
def test_an_unusable_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(url)
    assert "secret" not in caught.value.message
    assert len(caught.value.message) < 300


def test_a_registration_becomes_an_endpoint_and_back() -> None:
    body = registration(
        multimodal=True, worker_info={"context_length": {"m": 4096}, "max_running": 8}
    )
    endpoint = read_endpoint(body, STATUS)
    assert endpoint.context_length("m") == 4096
    assert endpoint.context_length("other") is None
    assert endpoint.multimodal and endpoint.max_running == 8
    again = describe(endpoint, 3)
    assert again["worker_status"]["queue_length"] == 3
    assert read_endpoint(again, again["worker_status"]) == endpoint


def test_one_context_length_holds_for_every_model() -> None:
    body = registration(worker_info={"context_length": 2048})
    endpoint = read_endpoint(body, {**STATUS, "model_names": ["a", "b", "a"]})
    assert endpoint.model_names == ("a", "b")
    assert endpoint.context_lengths == (("a", 2048), ("b", 2048))


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"worker_name": None}, {}, "worker_name"),
        ({"worker_name": 3}, {}, "worker_name"),
        ({"check_heart_beat": None}, {}, "check_heart_beat"),
        ({"check_heart_beat": "yes"}, {}, "check_heart_beat"),
        ({"multimodal": "yes"}, {}, "multimodal"),
        ({"worker_info": [1]}, {}, "worker_info"),
        ({"worker_info": {"context_length": -1}}, {}, "context_length"),
        ({"worker_info": {"max_running": 1.5}}, {}, "max_running"),
        ({}, {"model_names": None}, "model_names"),
        ({}, {"model_names": []}, "model_names"),
        ({}, {"model_names": [""]}, "model_names"),
        ({}, {"model_names": ["  "]}, "model_names"),
        ({}, {"model_names": ["a\nb"]}, "model_names"),
        ({}, {"model_names": ["a" * 300]}, "model_names"),
        ({}, {"model_names": [1]}, "model_names"),
        ({}, {"model_names": "m"}, "model_names"),
        ({}, {"speed": 0}, "speed"),
        ({}, {"speed": -1}, "speed"),
        ({}, {"speed": 1e9}, "speed"),
        ({}, {"speed": float("nan")}, "speed"),
        ({}, {"speed": float("inf")}, "speed"),
        ({}, {"speed": True}, "speed"),
        ({}, {"speed": "fast"}, "speed"),
    ],
)
def test_an_impossible_registration_names_its_field(
    body: dict[str, Any], status: dict[str, Any], field: str
) -> None:
    with pytest.raises(UnprocessableError) as caught:
        read_endpoint(registration(**body), {**STATUS, **status})
    assert caught.value.param == field
    assert caught.value.status == 422


@pytest.mark.parametrize("value", [-1, 1.5, "3", None, True, 10**9, float("nan")])
def test_an_impossible_queue_length_is_refused(value: Any) -> None:
    with pytest.raises(UnprocessableError):
        read_queue_length({"queue_length": value})


def test_a_queue_length_may_be_a_whole_float_or_absent() -> None:
    assert read_queue_length({"queue_length": 2.0}) == 2
    assert read_queue_length({}) == 0


def test_a_closing_slash_is_no_part_of_the_name() -> None:
    assert read_name({"worker_name": "http://localhost:21002/"}) == "http://localhost:21002"


async def allows(url: str, *, peer: str, local: str = "10.0.0.1", allowed: str = "") -> bool:
    rules = AddressRules(allowed=tuple(filter(None, allowed.split(","))))
    try:
        await rules.check(parse_address(url), peer=peer, local=local)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize(
    ("url", "peer", "ok"),
    [
        ("http://127.0.0.1:21002", "127.0.0.1", True),
        ("http://localhost:21002", "127.0.0.1", True),
        ("http://127.0.0.1:21002", "10.0.0.1", True),  # this machine, by its other address
        ("http://127.0.0.1:21002", "10.0.0.9", False),
        ("http://2130706433:21002", "10.0.0.9", False),  # 127.0.0.1 in decimal
        ("http://0x7f.1:21002", "10.0.0.9", False),
        ("http://0177.0.0.1:21002", "10.0.0.9", False),
        ("http://[::ffff:127.0.0.1]:21002", "10.0.0.9", False),
        ("http://0.0.0.0:21002", "10.0.0.9", False),
        ("http://[::1]:21002", "::1", True),
        ("http://10.1.2.3:21002", "10.0.0.9", True),
        ("http://192.168.0.7:21002", "10.0.0.9", True),
        ("http://203.0.114.5:21002", "10.0.0.9", False),
        ("http://203.0.114.5:21002", "203.0.114.5", True),
        ("http://169.254.169.254:8000", "127.0.0.1", False),
        ("http://169.254.169.254:8000", "169.254.169.254", False),
        ("http://[::ffff:169.254.169.254]:8000", "127.0.0.1", False),
        ("http://[fe80::1]:8000", "127.0.0.1", False),
        ("http://224.0.0.1:8000", "127.0.0.1", False),
        ("http://127.0.0.1:22", "127.0.0.1", False),
        ("http://127.0.0.1:80", "127.0.0.1", True),
    ],
)
async def test_who_may_be_registered_without_being_named(url: str, peer: str, ok: bool) -> None:
    assert await allows(url, peer=peer) is ok


@pytest.mark.parametrize(
    ("url", "allowed", "ok"),
    [
        ("http://203.0.114.5:21002", "203.0.114.5", True),
        ("http://203.0.114.5:21002", "203.0.114.0/24", True),
        ("http://203.0.114.5:21002", "203.0.115.0/24", False),
        ("http://203.0.114.5:21002", "*", True),
        ("http://169.254.169.254:8000", "*", False),
        ("http://169.254.169.254:8000", "169.254.169.254", True),
        ("http://127.0.0.1:22", "127.0.0.1", True),
        ("http://localhost:21002", "localhost", True),
    ],
)
async def test_the_operator_may_name_others(url: str, allowed: str, ok: bool) -> None:
    assert await allows(url, peer="198.51.101.1", allowed=allowed) is ok


def test_wrapped_and_zoned_addresses_become_plain() -> None:
    assert plain_ip("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain_ip("fe80::1%eth0") == "fe80::1"
