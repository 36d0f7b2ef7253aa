"""The flags that every judging command has."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastchat.llm_judge.folders import Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """Which benchmark, and where its files are."""

    bench_name: str = "mt_bench"
    """Benchmark: a folder in the data folder. `fastchat_bench` ships with the package."""
    data_dir: Path = Path("data")
    """Where files are read and written; what it lacks is read from the package."""
    debug: bool = False
    """Show tracebacks."""

    @property
    def bench(self) -> "Bench":
        """Where its files are."""
        from fastchat.llm_judge.folders import Bench

        return Bench(data_dir=self.data_dir, name=self.bench_name)
