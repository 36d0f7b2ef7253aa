"""Runs one program from a model, with limits, and says whether its tests passed.

code_runs.py starts it as a program of its own; it knows nothing of this package. The first line
of its input is the program with its limits, the second the tests with a secret: the program ends
before the tests are read, so one that exits early, or prints that all is well, has not passed.
"""

import ctypes
import io
import json
import os
import resource
import signal

CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_WRITES = 0b1_1111_1111_0010
"""Writing to, making and removing files of every kind; from linux/landlock.h, version 1."""
NOBODY = 65534
FILE_BYTES = 1 << 20
OPEN_FILES = 64
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Status 0 when a result was written, whatever it is."""
    given = io.FileIO(0, closefd=False)  # unbuffered: what is not read yet is not in memory
    first = json.loads(given.readline())
    is_offline = isolate()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return 0
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    result = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    told = {"offline": is_offline, "write_protected": protect_files()}
    os.write(result, json.dumps(told).encode() + b"\n")
    limit(first["cpu_s"], first["memory_bytes"])
    os.write(result, json.dumps(run(first["program"], given)).encode() + b"\n")
    os._exit(0)


def isolate() -> bool:
    """Leaves the network, the other processes and root behind; whether the system let us."""
    if not hasattr(LIBC, "unshare"):  # no Linux
        return False
    kinds = CLONE_NEWNET | CLONE_NEWPID
    if os.geteuid() == 0 and nobody_reads_python():
        done = LIBC.unshare(kinds) == 0
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return done
    return LIBC.unshare(kinds | CLONE_NEWUSER) == 0


def nobody_reads_python() -> bool:
    """Whether a program could import anything as the user `nobody`."""
    os.seteuid(NOBODY)
    is_readable = os.access(os.__file__, os.R_OK, effective_ids=True)
    os.seteuid(0)
    return is_readable


def protect_files() -> bool:
    """Lets files be written below the working directory alone; whether the system can (Linux
    5.13 with Landlock)."""
    if not hasattr(LIBC, "unshare"):
        return False

    class Rule(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]

    handled = ctypes.c_uint64(LANDLOCK_WRITES)
    rules = LIBC.syscall(LANDLOCK_CREATE, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    folder = os.open(".", os.O_RDONLY)
    rule = Rule(LANDLOCK_WRITES, folder)
    LIBC.syscall(LANDLOCK_ADD, rules, 1, ctypes.byref(rule), 0)
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done = LIBC.syscall(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(folder)
    os.close(rules)
    return done


def limit(cpu_s: int, memory_bytes: int) -> None:
    """Of processor time, memory, files and processes."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def run(program: str, given: io.FileIO) -> dict[str, str]:
    """The secret where the tests passed, else what went wrong."""
    names: dict[str, object] = {"__name__": "answer"}
    try:
        exec(compile(program, "answer.py", "exec"), names)
    except BaseException as error:
        return {"error": f"the program: {said(error)}"}
    line = given.readline()
    if not line:
        return {"error": "the program: it read the input to its end"}
    second = json.loads(line)
    try:
        exec(compile(second["tests"], "tests.py", "exec"), names)
    except BaseException as error:
        return {"error": f"the tests: {said(error)}"}
    return {"secret": second["secret"]}


def said(error: BaseException) -> str:
    """The error in a line."""
    return f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
