"""What answers the OpenAI API: its address, its models, and which addresses may be registered.

Knows the published registration body and turns it into an `Endpoint` and back. Opens no
connection; only `AddressRules.check` asks the resolver.
"""

import asyncio
import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from fastchat.errors import UnprocessableError, UsageError

Check = Literal["heartbeat", "probe", "never"]

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a server listens on that only this machine may reach."""

MAX_NAME_LENGTH = 512
MAX_MODEL_NAME_LENGTH = 256
MAX_MODELS = 1000
MAX_SPEED = 100.0
MAX_QUEUE_LENGTH = 1_000_000
RESOLVE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A base URL, taken apart."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    prefix: str = ""
    """Path before `/v1/...`, without a closing slash."""

    @property
    def netloc(self) -> str:
        """Host and port as the `Host` header wants them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One server that answers the OpenAI API for some models."""

    name: str
    """Its base URL, by which it is known."""
    model_names: tuple[str, ...]
    speed: float = 1.0
    """Share of the work it can take, against the others."""
    check: Check = "heartbeat"
    """Who says that it lives: its own heart-beats, our probes, or nobody."""
    multimodal: bool = False
    context_lengths: tuple[tuple[str, int], ...] = ()
    """(model, tokens) where known."""
    max_running: int | None = None
    """Requests that it advances together, where known."""
    has_given_names: bool = False
    """Its names were given by hand, whatever it lists."""

    def context_length(self, model: str) -> int | None:
        """The context of `model` in tokens, where known."""
        return dict(self.context_lengths).get(model)


def parse_address(url: str) -> Address:
    """The parts of a base URL; a closing `/v1` belongs to the routes, not to the base.

    Raises:
        UsageError: not an http or https URL with a host and nothing after its path.
    """
    without_login = url.rpartition("@")[2]
    shown = f"{without_login[:80]!r}{'...' if len(without_login) > 80 else ''}"
    problem = f"The address {shown} cannot be used: "
    if len(url) > MAX_NAME_LENGTH:
        raise UsageError(f"{problem}it is longer than {MAX_NAME_LENGTH} characters.")
    if any(c <= " " or c in "\\\x7f" for c in url) or not url.isascii():
        raise UsageError(f"{problem}it holds a blank, a backslash or a character beyond ASCII.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname
    except ValueError:
        raise UsageError(f"{problem}its host or port is malformed.") from None
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{problem}it must begin with http:// or https://.")
    if not host or port == 0:
        raise UsageError(f"{problem}it names no host, or port 0.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(f"{problem}credentials, '?' and '#' are not allowed in it.")
    return Address(
        scheme="https" if parts.scheme == "https" else "http",
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        prefix=parts.path.rstrip("/").removesuffix("/v1").rstrip("/"),
    )


# ---- the published bodies


def read_name(body: Mapping[str, Any]) -> str:
    """`worker_name` without a closing slash.

    Raises:
        UnprocessableError: it is missing, or not text.
        UsageError: it is not a usable base URL.
    """
    name = body.get("worker_name")
    if not isinstance(name, str) or not name:
        raise _invalid("worker_name", "must be the base URL of the worker")
    parse_address(name)
    return name.rstrip("/")


def read_queue_length(body: Mapping[str, Any]) -> int:
    """`queue_length`, an integer from 0 on; 0 when it is absent.

    Raises:
        UnprocessableError: any other value.
    """
    value = body.get("queue_length", 0)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_QUEUE_LENGTH:
        raise _invalid("queue_length", f"must be an integer from 0 to {MAX_QUEUE_LENGTH}")
    return value


def read_check(body: Mapping[str, Any]) -> Check:
    """How the endpoint is watched, from the published `check_heart_beat`.

    Raises:
        UnprocessableError: it is missing, or not true or false.
    """
    check = body.get("check_heart_beat")
    if not isinstance(check, bool):
        raise _invalid("check_heart_beat", "must be true or false")
    return "heartbeat" if check else "probe"


def read_endpoint(body: Mapping[str, Any], status: Mapping[str, Any]) -> Endpoint:
    """The endpoint that a registration `body` and a worker's `status` describe.

    Raises:
        UnprocessableError: a field is missing or impossible; the message names it.
    """
    names = read_model_names(status.get("model_names"))
    info = body.get("worker_info") or {}
    if not isinstance(info, Mapping):
        raise _invalid("worker_info", "must be an object")
    multimodal = body.get("multimodal", info.get("multimodal"))
    if not isinstance(multimodal, bool | None):
        raise _invalid("multimodal", "must be true or false")
    return Endpoint(
        name=read_name(body),
        model_names=names,
        speed=_read_speed(status),
        check=read_check(body),
        multimodal=bool(multimodal),
        context_lengths=_read_context_lengths(info.get("context_length"), names),
        max_running=_read_count(info.get("max_running"), "max_running"),
    )


def read_model_names(value: Any) -> tuple[str, ...]:
    """Model names, each once.

    Raises:
        UnprocessableError: not a list of one to `MAX_MODELS` printable names.
    """
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MODELS:
        raise _invalid("model_names", f"must be a list of 1 to {MAX_MODELS} names")
    for name in value:
        fits = isinstance(name, str) and 0 < len(name) <= MAX_MODEL_NAME_LENGTH
        if not fits or not name.strip() or not name.isprintable():
            limit = f"1 to {MAX_MODEL_NAME_LENGTH} printable characters"
            raise _invalid("model_names", f"must hold names of {limit} each")
    return tuple(dict.fromkeys(value))


def describe(endpoint: Endpoint, queue_length: int) -> dict[str, Any]:
    """The registration body of `endpoint`: what `read_endpoint` reads back."""
    return {
        "worker_name": endpoint.name,
        "check_heart_beat": endpoint.check == "heartbeat",
        "worker_status": {
            "model_names": list(endpoint.model_names),
            "speed": endpoint.speed,
            "queue_length": queue_length,
        },
        "multimodal": endpoint.multimodal,
        "worker_info": {
            "context_length": dict(endpoint.context_lengths),
            "max_running": endpoint.max_running,
        },
    }


def _read_speed(status: Mapping[str, Any]) -> float:
    speed = status.get("speed", 1)
    is_number = isinstance(speed, int | float) and not isinstance(speed, bool)
    if not is_number or not math.isfinite(speed) or not 0 < speed <= MAX_SPEED:
        raise _invalid("speed", f"must be a number above 0, at most {MAX_SPEED:g}")
    return float(speed)


def _read_context_lengths(value: Any, names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """One number for every model, or an object of numbers by model."""
    by_model = value if isinstance(value, Mapping) else dict.fromkeys(names, value)
    lengths = [(name, _read_count(by_model.get(name), "context_length")) for name in names]
    return tuple((name, length) for name, length in lengths if length is not None)


def _read_count(value: Any, field: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**53:
        raise _invalid(field, "must be a positive integer")
    return value


def _invalid(field: str, rule: str) -> UnprocessableError:
    return UnprocessableError(f"'{field}' {rule}.", param=field)


# ---- which addresses may be registered


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """Whom a registration may make the cluster talk to.

    Allowed without being named: the address the registration came from, private networks,
    and this machine when the registration came from this machine. Never allowed without
    being named: link-local addresses (where clouds keep their metadata), multicast, and ports
    below 1024 other than 80 and 443.
    """

    allowed: tuple[str, ...] = ()
    """Hosts, addresses and networks (10.0.0.0/8) that the operator named; `*` is any
    address that is not link-local or multicast."""

    async def check(self, address: Address, *, peer: str | None, local: str | None) -> None:
        """Resolves the host and applies the rules to everything it resolves to.

        Args:
            address: what is to be registered.
            peer: the address the registration came from.
            local: our own address on that connection.

        Raises:
            UsageError: the address is not allowed, or cannot be resolved.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await loop.getaddrinfo(address.host, address.port)
        except (OSError, UnicodeError, TimeoutError):
            raise UsageError(
                f"The host {address.host!r} cannot be resolved here; "
                "register an address that this controller can reach."
            ) from None
        for ip in {plain_ip(str(item[4][0])) for item in found}:
            self.check_ip(address, ip, peer=peer, local=local)

    def check_ip(
        self, address: Address, ip: str, *, peer: str | None = None, local: str | None = None
    ) -> None:
        """Applies the rules to one resolved address.

        Raises:
            UsageError: it is not allowed; the message says what would allow it.
        """
        if self._names(address.host) or self._names(ip):
            return
        remedy = f"name it by --allowed-worker-hosts {address.host} if it is meant"
        place = ipaddress.ip_address(ip)
        if place.is_link_local or place.is_multicast:
            raise UsageError(f"The address {address.netloc} is link-local or multicast; {remedy}.")
        if "*" in self.allowed:
            return
        if address.port < 1024 and address.port not in (80, 443):
            raise UsageError(f"Port {address.port} is kept for other services; {remedy}.")
        if place.is_loopback or place.is_unspecified:
            from_here = peer is None or peer == local or ipaddress.ip_address(peer).is_loopback
            if not from_here:
                raise UsageError(
                    f"The address {address.netloc} means the controller's own machine, but the "
                    f"registration came from another; give the worker its own --worker-address."
                )
            return
        if not place.is_private and ip != peer:
            raise UsageError(f"The address {address.netloc} is a public one; {remedy}.")

    def _names(self, host: str) -> bool:
        """Whether the operator named this host, address, or a network that holds it."""
        if host in self.allowed:
            return True
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(ip in network for network in _networks(self.allowed))


def plain_ip(ip: str) -> str:
    """`ip` without a zone, and as IPv4 where it only wraps one."""
    place = ipaddress.ip_address(ip.split("%", 1)[0])
    mapped = getattr(place, "ipv4_mapped", None)
    return str(mapped or place)


def _networks(
    allowed: tuple[str, ...],
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for word in allowed:
        try:
            networks.append(ipaddress.ip_network(word, strict=False))
        except ValueError:
            continue  # a host name
    return networks


def token_for(endpoint: Endpoint, worker_token: str | None) -> str | None:
    """The worker token, for a worker that keeps beating; None for servers of other kinds, which
    could register workers of their own with it."""
    return worker_token if endpoint.check == "heartbeat" else None
