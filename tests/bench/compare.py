"""Is this tree faster or slower than a commit? Both are built and run in turns on this machine; prints ratios, this tree to the commit.

    make bench-compare BASE=main [PAIRS=7] [FAIL_BELOW=0.97] [WHAT="forward submit"]

The commit is built in a git worktree of its own under build/bench, which is removed in the end (--keep leaves it); this tree is taken as it
lies there, committed or not. Each pair runs both, first the one, then the other, and the next pair the other way round. Of the pairs' ratios
it prints the middle one and an interval that has the true middle with 95 % or more (order statistics; from six pairs on). Exit code 1 where a
middle is below FAIL_BELOW and its interval below 1: slower, and not by the machine's noise alone. Figures marked cpu go by the time that
threads had a processor: where other work runs beside they say more.
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import common
from common import BATCH_TOKENS, CORES, ROOT, TOKENS, harness

LEAST_PAIRS = 6  # of fewer even the outermost hold the middle with less than 95 %
GEMM_LINES = 12  # of bench_gemm, which then is stopped: the first shapes of the 0.5B model


class Tree:
    def __init__(self, root):
        self.bin, self.tools = root / "build/cpu/bin", root / "build/cpu/tests/bench"

    def gemm(self):
        """Median GFLOP/s."""
        process = subprocess.Popen([self.tools / "bench_gemm"], stdout=subprocess.PIPE, text=True)
        rates = [json.loads(process.stdout.readline())["gflops"] for _ in range(GEMM_LINES)]
        process.kill()
        process.communicate()
        return {"gemm": statistics.median(rates)}

    def forward(self):
        """tokens/s in process, a few layers; by the time that threads had a processor, where the tree's program says it."""
        found = common.lines(self.tools / "bench_forward", common.checkpoint(3), 8, TOKENS, BATCH_TOKENS)[0]
        return {"forward": found["tokens_per_s"], **({"forward, cpu": found["cpu_tokens_per_s"]} if "cpu_tokens_per_s" in found else {})}

    def submit(self):
        """Rows/s acknowledged, through the socket."""
        with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
            broker = harness.Broker(pathlib.Path(directory) / "d", options=["--max-batch-tokens", 512])
            broker.command[0] = str(self.bin / "assayd")
            with broker:
                return {"submit": common.lines(self.tools / "bench_submit", "assay", broker.endpoint, 1, 32, 2)[0]["rows_per_s"]}

    def work(self):
        """Rows/s claimed and finished; and in a second of processor time."""
        with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
            found = common.lines(self.tools / "bench_depth", directory, 1000, 2)[0]
        return {"work": found["rows_per_s"], "work, cpu": 1e6 / found["cpu_us"]}


MEASURES = {"gemm": Tree.gemm, "forward": Tree.forward, "submit": Tree.submit, "work": Tree.work}


def interval(ratios, wanted=0.95):
    """(low, middle, high): order statistics as near to the middle as hold it with the wanted chance; of few ratios the outermost."""
    found, n, outside = sorted(ratios), len(ratios), 0.0
    at = 0
    for k in range((n - 1) // 2):
        outside += 2 * math.comb(n, k) / 2 ** n
        if 1 - outside < wanted:
            break
        at = k
    return found[at], statistics.median(found), found[n - 1 - at]


def is_slower(ratios, fail_below):
    _, middle, high = interval(ratios)
    return len(ratios) >= LEAST_PAIRS and middle < fail_below and high < 1


def build(root):
    tools = [f"build/cpu/tests/bench/bench_{name}" for name in ("gemm", "forward", "submit", "depth")]
    plain = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}  # nothing of a make around this one
    done = subprocess.run(["make", "-s", "-C", root, "-j", str(CORES), "BUILD=cpu", "all", *tools], env=plain, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench-compare: {root} does not build\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


def git(*arguments):
    done = subprocess.run(["git", "-C", ROOT, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench-compare: git {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout.strip()


def measure_pairs(base, here, names, pairs):
    """Figure to the pairs' ratios, and what each was. A measure may give several figures: those count that both trees have."""
    ratios, rates = {}, {}
    for pair in range(pairs):
        for name in names:
            order = (base, here) if pair % 2 == 0 else (here, base)
            got = {tree: MEASURES[name](tree) for tree in order}
            for figure, ours in got[here].items():
                if figure in got[base]:
                    rates.setdefault(figure, []).append((ours, got[base][figure]))
                    ratios.setdefault(figure, []).append(ours / got[base][figure])
                    common.say(f"pair {pair + 1}: {figure}: {ours:,.1f} / {got[base][figure]:,.1f} = {ratios[figure][-1]:.3f}")
    return ratios, rates


def report(ratios, rates, fail_below):
    """Prints the table; the names of what became slower."""
    print("| what | this tree | base | ratio | interval |\n|---|---:|---:|---:|---:|")
    for name, got in ratios.items():
        low, middle, high = interval(got)
        ours, theirs = (statistics.median(side) for side in zip(*rates[name]))
        print(f"| {name} | {ours:,.1f} | {theirs:,.1f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    if any(len(got) < LEAST_PAIRS for got in ratios.values()):
        print(f"\nFewer than {LEAST_PAIRS} pairs: too few to tell, the intervals are all that was seen.")
    return [name for name, got in ratios.items() if is_slower(got, fail_below)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("what", nargs="*", help=f"of {', '.join(MEASURES)} (default all)")
    parser.add_argument("--pairs", type=int, default=7, help="of runs (default 7)")
    parser.add_argument("--fail-below", type=float, default=0.97, help="smallest ratio that passes (default 0.97)")
    parser.add_argument("--keep", action="store_true", help="leave the commit's worktree for the next time")
    args = parser.parse_args()
    names = args.what or list(MEASURES)
    if args.pairs < 1 or any(name not in MEASURES for name in names):
        parser.error(f"expected a pair or more, and some of {', '.join(MEASURES)}")
    commit = git("rev-parse", "--verify", "--end-of-options", f"{args.base}^{{commit}}")
    directory = common.SCRATCH / f"base-{commit[:12]}"
    git("worktree", "prune")
    if not directory.exists():
        git("worktree", "add", "--detach", directory, commit)
    try:
        common.say(f"building {commit[:12]} and this tree")
        build(directory)
        build(ROOT)
        common.checkpoint(3)
        slower = report(*measure_pairs(Tree(directory), Tree(ROOT), names, args.pairs), args.fail_below)
    finally:
        if not args.keep:
            git("worktree", "remove", "--force", directory)
    if slower:
        print(f"\nslower than {commit[:12]}: {', '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
