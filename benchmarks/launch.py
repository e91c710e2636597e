"""Run one command and report what it cost; kept tiny on purpose.

    python -I -S launch.py REPORT STDOUT STDERR COMMAND [ARG ...]

Linux counts the memory of the process that calls exec() into the peak RSS of the program it becomes, so the
peak reported for a small tool can never be below that of its parent.  The benchmarks therefore start tools from
this file, a bare interpreter, and not from themselves.  REPORT receives one line:
exit status, wall seconds, user seconds, system seconds, peak RSS in KiB.
"""

import os
import sys
import time


def main() -> None:
    report, stdout, stderr, *command = sys.argv[1:]
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, stdout, write, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, stderr, write, 0o644),
    ]
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=files)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    line = f"{code} {wall!r} {used.ru_utime!r} {used.ru_stime!r} {used.ru_maxrss}\n"
    os.write(os.open(report, write, 0o644), line.encode())


if __name__ == "__main__":
    main()
