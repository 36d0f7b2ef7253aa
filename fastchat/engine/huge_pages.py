"""Large pages for the weights, which every step reads.

A step reads all weights once, in order, and a processor that looks every 4 KiB up spends much of
its time on that. With pages of 2 MiB a step of a 58.7 M model in f32 took 11.4 ms of processor
time instead of 13.7 with one row, 18.2 instead of 19.5 with eight, and the same with 32, which
compute more than they read (a virtual machine on an EPYC 9004). The pool of keys and values has
them already: numpy asks for them wherever it allocates much.

Linux gives such pages where it is asked to (`transparent_hugepage` being `madvise`, as most
distributions have it, or `always`). Elsewhere nothing here has an effect, nor is it an error.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterable, Iterator
from threading import Thread

HUGE = 2 * 2**20
"""Bytes of a large page."""

LEAST_FILLED = 0.9
"""Part of an area that is in memory already, at least; a thread's stack is hardly filled."""

AT_ONCE = 16 * HUGE
"""Bytes moved by one call, some 0.1 s, during which others may have to wait for their pages."""

_COLLAPSE = 25
"""MADV_COLLAPSE of <linux/mman.h>, which Python's `mmap` does not name; Linux 6.1."""

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)\s*(.*)$")


def move_what_is_loaded() -> Thread:
    """Begins to move this process's memory to large pages, beside its work.

    Files that are mapped stay, and areas smaller than a large page. It takes some 2.7 s of
    processor time a gigabyte, none of it under Python's lock.
    """
    thread = Thread(target=_move, name="large pages", daemon=True)
    thread.start()
    return thread


def _move() -> None:
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
            areas = list(filled_areas(file))
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in areas:
        for first in range(start, end, AT_ONCE):
            size = min(AT_ONCE, end - first)
            # An area that is gone by now, or a kernel that cannot: refused, and nothing changes.
            if madvise(first, size, advice) == 0:
                madvise(first, size, _COLLAPSE)


def filled_areas(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """(start, end), rounded inwards to large pages, of private memory that is mostly in use.

    smaps: lines of /proc/PID/smaps.
    """
    start = end = 0
    for line in smaps:
        if found := _HEAD.match(line.rstrip("\n")):
            is_ours = found[3] == "rw-p" and found[4] == "0" and found[5] in ("", "[heap]")
            start, end = (int(found[1], 16), int(found[2], 16)) if is_ours else (0, 0)
        elif line.startswith("Rss:"):
            is_filled = int(line.split()[1]) * 1024 >= LEAST_FILLED * (end - start)
            first, last = -(-start // HUGE) * HUGE, end // HUGE * HUGE
            if is_filled and last > first:
                yield first, last
