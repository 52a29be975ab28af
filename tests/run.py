"""Runs test programs and adds up what they report.

    run.py [--limit S] [--beside LABEL=COMMAND] .. LABEL=COMMAND ..

Those given with --beside run first, one more at a time than there are cores: they wait for disks and for one another about half of
their time. The others run one after the other, since they watch the clock.

Understands cmocka and pytest. A program that crashes, hangs or reports nothing counts as one failure. Output is shown
only of programs that fail. The last line is "N passed, N failed", with ", N skipped" where some were.
"""
import argparse
import concurrent.futures
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

CMOCKA = {
    "passed": re.compile(r"\[  PASSED  \] (\d+) test"),
    "failed": re.compile(r"\[  FAILED  \] (\d+) test"),
    "skipped": re.compile(r"\[  SKIPPED \] (\d+) test"),
}
PYTEST = {
    "passed": re.compile(r"\b(\d+) passed"),
    "failed": re.compile(r"\b(\d+) (?:failed|error)"),
    "skipped": re.compile(r"\b(\d+) skipped"),
}


def count(output: str) -> dict:
    """Numbers that a program reported, by outcome."""
    tail = output.strip().splitlines()[-1:] or [""]
    is_pytest = re.search(r" in [\d.]+s", tail[0]) is not None
    text, patterns = (tail[0], PYTEST) if is_pytest else (output, CMOCKA)
    return {name: sum(int(n) for n in pattern.findall(text)) for name, pattern in patterns.items()}


def run(command: str, limit: float) -> tuple:
    """(exit status, output, seconds of processor time with its children's); a program past its limit is killed with all its children."""
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, text=True, errors="replace")
    timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not timer.is_alive():
        output += f"\nrun.py: killed after {limit:.0f} s\n"
    timer.cancel()
    return process.returncode, output, usage.ru_utime + usage.ru_stime


LOCK = threading.Lock()


def report(program: str, limit: float, total: dict) -> None:
    """Run one program, print its line, add its numbers to the total."""
    label, _, command = program.partition("=")
    start = time.monotonic()
    status, output, busy = run(command, limit)
    found = count(output)
    if status != 0 and found["failed"] == 0:
        found["failed"] = 1
    if status == 0 and found["passed"] + found["skipped"] == 0:
        found["failed"] = 1
        output += "\nrun.py: it reported no test\n"
    with LOCK:
        for name, n in found.items():
            total[name] += n
        print(f"{label:<28} {found['passed']:>5} passed {found['failed']:>3} failed {found['skipped']:>3} skipped "
              f"{time.monotonic() - start:>7.1f} s, {busy:>6.1f} busy", flush=True)
        if found["failed"]:
            print(output, f"\n{label}: exit status {status}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=900, help="seconds that one program may take")
    parser.add_argument("--beside", action="append", default=[], metavar="LABEL=COMMAND")
    parser.add_argument("programs", nargs="+", metavar="LABEL=COMMAND")
    args = parser.parse_args()
    total = {"passed": 0, "failed": 0, "skipped": 0}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() + 1) as pool:
        list(pool.map(lambda program: report(program, args.limit, total), args.beside))
    for program in args.programs:
        report(program, args.limit, total)
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"{total['passed']} passed, {total['failed']} failed{skipped}")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
