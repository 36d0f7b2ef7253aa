"""The one logging set-up. `main` calls `setup`; every module has its own logger.

Lines read `time | level | logger | message`, times in UTC. Nothing here prints, and the
standard streams stay what they are.
"""

import logging
import logging.handlers
import os
import time
from io import TextIOWrapper
from pathlib import Path

FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it makes can be read by its owner and group only."""
    return os.open(path, flags, 0o640)


class _LogFile(logging.handlers.TimedRotatingFileHandler):
    """A log file that strangers on this machine cannot read."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=private)


def setup(file_name: str | None = None, *, debug: bool = False) -> None:
    """Sends log lines to standard error and, when `LOGDIR` is set, to a file there.

    Args:
        file_name: name of the log file, for example `controller.log`; rotated daily (UTC).
        debug: lets DEBUG lines through. Prompts and answers appear at that level only.
    """
    formatter = logging.Formatter(FORMAT, "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    folder = os.environ.get("LOGDIR")
    if file_name and folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handlers.append(
            _LogFile(Path(folder) / file_name, when="D", utc=True, encoding="utf-8", delay=True)
        )
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in ("fastchat", "uvicorn"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    # Warns of a kernel that it does without whenever peft is imported, quantized or not.
    logging.getLogger("bitsandbytes").setLevel(logging.DEBUG if debug else logging.ERROR)
