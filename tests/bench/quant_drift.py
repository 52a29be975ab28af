"""What --quant int8 and --dtype bf16 do to scores, on the CPU: the same pairs in float32 and so through `assay score`, and how far the two are
apart.

    make quant-drift                        every model below, each way; ends with 1 where fewer than 99.5 % of a trained model's pairs keep their
                                            order, or its rank correlation is below 0.999
    ASSAY_BIN=build/cpu/bin build/venv/bin/python tests/bench/quant_drift.py [--pairs N] [--big N] [--json] [demo-reward] [..]

demo-reward     trained; a right solution of a held-out sum and a wrong one (tests/reference/sums.py); the score
demo-process    trained; the same, by steps; a solution's score is that of its least likely step, in logits
0.5b            the shape of Qwen2.5-0.5B with random weights (make_big.py); two rows of random ids. Nothing was learnt that would set rows
                apart, so scores lie within a small part of what goes into them, and rounding weights to eight bits moves them by several
                per cent of that: the same in float32, with weights rounded so beforehand. For the record; no bound holds here.

max, mean       of the difference between a row's two scores, as a part of the standard deviation of float32's scores
rank            Spearman's rank correlation of all rows' scores
pairs           share of pairs of which the same row is above the other
"""
import argparse
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = pathlib.Path(os.environ.get("ASSAY_BIN", ROOT / "build/cpu/bin"))
MODELS = ROOT / "tests/models"
BIG = ROOT / "build/bench/qwen2.5-0.5b-shape"
sys.path.insert(0, str(HERE.parent / "reference"))
import sums  # noqa: E402

WAYS = {"int8": ("--quant", "int8"), "bf16": ("--dtype", "bf16")}
LEAST_PAIRS, LEAST_RANK = 0.995, 0.999
BIG_TOKENS = 24
TRAINED = ("demo-reward", "demo-process")


def solutions(r):
    """(question, right steps, wrong steps)"""
    task = sums.draw(r, True)
    return sums.question(r, task), sums.solution(r, task), sums.solution(r, task, r.randrange(len(task[0])))


def reward_lines(r, n):
    for _ in range(n):
        ask, *both = solutions(r)
        for steps in both:
            yield {"prompt": ask, "response": "\n".join(steps)}


def process_lines(r, n):
    for _ in range(n):
        ask, *both = solutions(r)
        for steps in both:
            yield {"prompt": ask, "steps": steps}


def big_lines(r, n):
    for _ in range(2 * n):
        yield {"input_ids": [r.randrange(150000) for _ in range(BIG_TOKENS)]}


MADE = {"demo-reward": (reward_lines, MODELS / "demo-reward"), "demo-process": (process_lines, MODELS / "demo-process"),
        "0.5b": (big_lines, BIG)}


def value(line):
    assert line["error"] is None, line
    if "steps" in line:
        least = min(max(min(p, 1 - 1e-7), 1e-7) for p in line["steps"])
        return math.log(least / (1 - least))
    return line["score"]


def scores(directory, rows, model, *options):
    out = directory / f"{'-'.join(options)}.jsonl"
    subprocess.run([BIN / "assay", "score", rows, "-o", out, "--model", model, "--device", "cpu", *options], check=True,
                   stderr=subprocess.DEVNULL)
    return [value(json.loads(line)) for line in out.read_text().splitlines()]


def ranks(values):
    """1, 2, .. by value; equal ones share the mean of theirs."""
    order, out = sorted(range(len(values)), key=values.__getitem__), [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end < len(order) and values[order[end]] == values[order[at]]:
            end += 1
        for k in order[at:end]:
            out[k] = (at + end + 1) / 2
        at = end
    return out


def sign(x):
    return (x > 0) - (x < 0)


def compare(name, way, exact, found):
    spread, differences = statistics.pstdev(exact), [abs(a - b) for a, b in zip(exact, found)]
    same = [sign(exact[k] - exact[k + 1]) == sign(found[k] - found[k + 1]) for k in range(0, len(exact), 2)]
    return {"model": name, "way": way, "pairs": len(same), "spread": spread, "max": max(differences), "mean": statistics.mean(differences),
            "rank": statistics.correlation(ranks(exact), ranks(found)), "same": statistics.mean(same)}


def measure(name, ways, pairs):
    """A comparison for each way."""
    lines, model = MADE[name]
    if name == "0.5b" and not model.exists():
        subprocess.run([sys.executable, HERE / "make_big.py", model], check=True)
    with tempfile.TemporaryDirectory() as at:
        directory = pathlib.Path(at)
        rows = directory / "rows.jsonl"
        rows.write_text("".join(json.dumps({"id": str(k), **line}) + "\n" for k, line in enumerate(lines(random.Random(1), pairs))))
        exact = scores(directory, rows, model)
        for way in ways:
            yield compare(name, way, exact, scores(directory, rows, model, *WAYS[way]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MADE)} (default all)")
    parser.add_argument("--pairs", type=int, default=4000, help="pairs for the demo models (default 4000)")
    parser.add_argument("--big", type=int, default=500, help="pairs for the 0.5b (default 500)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="(default all)")
    parser.add_argument("--json", action="store_true", help="a line of JSON each, not a table")
    args = parser.parse_args()
    failed = False
    if not args.json:
        print("| model | | pairs | max | mean | rank | pairs with the same order |\n|---|---|---|---|---|---|---|")
    for name in args.models or MADE:
        for m in measure(name, args.ways, args.big if name == "0.5b" else args.pairs):
            failed |= name in TRAINED and (m["same"] < LEAST_PAIRS or m["rank"] < LEAST_RANK)
            print(json.dumps(m) if args.json else
                  f"| {name} | {m['way']} | {m['pairs']:,} | {m['max'] / m['spread']:.4f} | {m['mean'] / m['spread']:.4f} | {m['rank']:.5f} | "
                  f"{100 * m['same']:.2f} % |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
