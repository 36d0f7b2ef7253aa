import mmap
import sys

import numpy as np
import pytest

from fastchat.engine.huge_pages import HUGE, filled_areas, move_what_is_loaded

SMAPS = """\
10200000-10a00000 rw-p 00000000 00:00 0                                  [heap]
Size:               8192 kB
Rss:                8192 kB
10b00000-10d00000 rw-p 00000000 00:00 0
Rss:                2048 kB
20100000-20900000 rw-p 00000000 00:00 0
Rss:                8000 kB
30000000-30800000 rw-p 00000000 00:00 0
Rss:                4096 kB
40000000-40800000 rw-p 00000000 00:00 0                                  [stack]
Rss:                8192 kB
50000000-50800000 r--p 00000000 00:00 0
Rss:                8192 kB
60000000-60800000 rw-p 00000000 fe:00 1234                               /a file
Rss:                8192 kB
70000000-70800000 rw-s 00000000 00:00 0
Rss:                8192 kB
VmFlags: rd wr
"""


def test_only_private_memory_that_is_in_use_is_moved() -> None:
    found = list(filled_areas(SMAPS.splitlines(keepends=True)))
    assert found == [(0x10200000, 0x10A00000), (0x20200000, 0x20800000)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")
def test_what_is_loaded_stays_what_it_was() -> None:
    area = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = np.frombuffer(area, dtype=np.uint32)
    numbers[:] = np.arange(len(numbers))
    move_what_is_loaded().join()
    assert (numbers == np.arange(len(numbers))).all()


def test_a_system_without_large_pages_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    move_what_is_loaded().join()
