"""The help pages of commands, each from a process of its own that has imported nothing else."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

# Every command is run as `python -m` does, in a copy of a process that has read the settings'
# module, which all of them need and which takes longest; then it tells what it has imported.
PROBE = """
import json, os, runpy, sys, traceback
import fastchat.settings

def show(module):
    sys.argv = [module, "--help"]
    status = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    imported = sorted({name.partition(".")[0] for name in sys.modules})
    print("\\n" + json.dumps([module, status, imported]), flush=True)

for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        show(module)
        os._exit(0)
    os.waitpid(child, 0)
    print("\\0", flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpPage:
    """What `python -m module --help` did."""

    text: str
    status: int | None
    """How it ended; None for an error other than an exit, which `text` then tells."""
    imported: frozenset[str]
    """Libraries in memory at its end, by their first name."""

    @property
    def words(self) -> frozenset[str]:
        """What the page says, word by word: flags among them."""
        return frozenset(self.text.replace(",", " ").split())


def help_pages(modules: Iterable[str]) -> dict[str, HelpPage]:
    """The help page of each module that is a command."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *modules],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    pages: dict[str, HelpPage] = {}
    for said in done.stdout.split("\0")[:-1]:
        text, _, report = said.rstrip().rpartition("\n")
        module, status, imported = json.loads(report)
        pages[module] = HelpPage(text=text, status=status, imported=frozenset(imported))
    return pages
