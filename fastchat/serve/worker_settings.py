"""Settings that every worker program shares. Light, so that `--help` answers at once."""

from dataclasses import dataclass
from typing import Annotated

from fastchat.errors import UsageError
from fastchat.settings import Env, NoSwitch, ServerSettings, alias


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(ServerSettings):
    """Where a worker listens, whom it tells, and how much it takes on."""

    port: int = 21002
    """Port to listen on; 0 takes a free one."""
    worker_address: Annotated[str | None, alias("--worker")] = None
    """Address under which others reach this worker; derived from host and port unless given."""
    controller_address: Annotated[str, alias("--controller")] = "http://localhost:21001"
    """The controller to register at."""
    no_register: NoSwitch = False
    """Serve without a controller."""
    limit_worker_concurrency: Annotated[int | None, alias("--limit")] = None
    """Requests that run together at most; the default is what the engine can run."""
    max_queue: int | None = None
    """Requests that may wait beyond that; more are answered 429. Default: 8 times the limit."""
    stream_interval: int = 2
    """A stream sends a piece every so many tokens, the first one at once."""
    seed: int | None = None
    """Seed of requests that bring none."""
    embed_in_truncate: bool = False
    """Cut texts to be embedded at the context length, instead of averaging over pieces."""
    allow_image_urls: bool = False
    """Fetch pictures that requests name by http(s); public hosts only. Else only data: is taken."""
    strict: bool = False
    """Refuse fields that have no meaning here; otherwise `x-fastchat-ignored` names them."""
    heart_beat_interval_s: Annotated[float, Env("FASTCHAT_WORKER_HEART_BEAT_INTERVAL")] = 4.0
    """Seconds between heart-beats; a controller that was restarted is noticed as quickly."""
    worker_token: Annotated[str | None, Env("FASTCHAT_WORKER_TOKEN")] = None
    """Secret of the cluster: the controller asks it of its workers, this worker of the controller
    and the API server; better in the environment."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--limit-worker-concurrency", self.limit_worker_concurrency, 1),
            ("--max-queue", self.max_queue, 0),
            ("--stream-interval", self.stream_interval, 1),
            ("FASTCHAT_WORKER_HEART_BEAT_INTERVAL", self.heart_beat_interval_s, 0.1),
        ):
            if value is not None and not value >= least:
                raise UsageError(f"{flag} must be at least {least}, not {value}.")
