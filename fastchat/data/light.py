"""Settings of commands whose work on a record is less than sending the record about."""

from dataclasses import dataclass
from typing import Annotated

from fastchat.data.pipeline import PipelineSettings
from fastchat.settings import alias


@dataclass(frozen=True, slots=True, kw_only=True)
class LightSettings(PipelineSettings):
    """Those of every data command, with one process unless more are asked for."""

    workers: Annotated[int | None, alias("--num-proc")] = 1
    """Processes; one unless given, since more would spend more time than they save. The result
    does not depend on it."""
