"""Libraries that only some containers need, with the remedy when one is missing."""

from typing import Any

from fastchat.errors import UsageError


def zstandard() -> Any:
    """The library of Zstandard files."""
    try:
        import zstandard as library
    except ImportError:
        raise UsageError("Zstandard files need: pip install 'fschat[data]'.") from None
    return library


def pyarrow() -> Any:
    """The library of Parquet files."""
    try:
        import pyarrow as library
    except ImportError:
        raise UsageError("Parquet files need: pip install 'fschat[data]'.") from None
    return library


def pycld2() -> Any:
    """The library that tells languages apart."""
    try:
        import pycld2 as library
    except ImportError:
        raise UsageError("telling languages apart needs: pip install 'fschat[data]'.") from None
    return library
