"""b1 to b3, d2: the forward on the CPU against its ceilings and its peers."""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import common
from common import BATCH_TOKENS, CORES, HERE, ROWS, TOKENS, TOOLS, Row, harness, lines, say


def b1():
    rows = lines(TOOLS / "bench_gemm")
    for row in rows:
        say(f"{row['shape']:14s} {row['tokens']:5d} tokens {row['dtype']:5s} {row['gflops']:7.1f} GFLOP/s of {row['peak']:.1f}: {row['ratio']:.3f}, tile alone {row['tile']:.3f}")
    rows = [row for row in rows if row["tokens"] >= 512]
    ratios = [row["ratio"] for row in rows]
    yield Row("b1", f"matrix products / peak of fused multiply-adds, median of {len(rows)} shapes",
              f"{statistics.median(r['gflops'] for r in rows):.0f} GFLOP/s", f"{statistics.median(r['peak'] for r in rows):.0f} GFLOP/s",
              statistics.median(ratios), 0.92)
    worst = min(rows, key=lambda row: row["ratio"])
    yield Row("b1", f"the same, worst shape ({worst['shape']}, {worst['tokens']:,} tokens, {worst['dtype']})", "", "", worst["ratio"], 0.92)
    tiles = [row["tile"] for row in rows]
    yield Row("b1", "for comparison: the tile kernel alone, on panels in the second-level cache, just after each shape / peak, median", "", "",
              statistics.median(tiles))
    yield Row("b1", "for comparison: products / that tile, median", "", "", statistics.median(row["ratio"] / row["tile"] for row in rows))


def attention():
    for row in lines(TOOLS / "bench_attention"):
        say(f"attention {row['shape']} {row['tokens']:5d} tokens {row['gflops']:7.1f} GFLOP/s of {row['peak']:.1f}: {row['ratio']:.3f}, "
            f"{row['of_limit']:.3f} of the limit with softmax, {row['limit']:.3f}")
        if row["tokens"] == 4096:
            yield Row("att", f"attention, {row['shape']} heads, a row of 4,096 tokens, without counting softmax / peak of multiply-adds",
                      f"{row['gflops']:.0f} GFLOP/s", f"{row['peak']:.0f} GFLOP/s", row["ratio"], 0.9)
            yield Row("att", "the same / products at the peak and the softmax step by itself", f"{row['gflops']:.0f} GFLOP/s",
                      f"{row['peak'] * row['limit']:.0f} GFLOP/s", row["of_limit"])


def forward(rows=ROWS, kind="none"):
    """tokens/s in process."""
    return measure(rows, kind)["tokens_per_s"]


def measure(rows, kind):
    return lines(TOOLS / "bench_forward", common.checkpoint(), rows, TOKENS, BATCH_TOKENS, CORES, 0, kind)[0]


def blas(*arguments):
    """bench_blas's lines; none where there is no OpenBLAS."""
    done = subprocess.run([TOOLS / "bench_blas", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode == os.EX_UNAVAILABLE:
        return []
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def b2(turns=4):
    """A batch of ours and OpenBLAS's products of a batch, in turns."""
    missing = "not measured: apt-get install libopenblas0-pthread"
    model, ratios, ours, theirs = common.checkpoint(), [], [], []
    for _ in range(turns):
        one = (model, ROWS // turns, TOKENS, BATCH_TOKENS)
        found = blas("forward", *one)
        if not found:
            yield Row("b2", "OpenBLAS sgemm alone / the whole forward", missing, "", None, 0.95)
            return
        theirs.append(found[0]["seconds"])
        ours.append(lines(TOOLS / "bench_forward", *one)[0]["seconds"])
        ratios.append(theirs[-1] / ours[-1])
        say(f"b2: forward {ours[-1]:.2f} s, the products by OpenBLAS {theirs[-1]:.2f} s: {ratios[-1]:.3f}")
    yield Row("b2", f"OpenBLAS sgemm on the products alone / the whole forward, {ROWS} rows of {TOKENS} tokens", f"{sum(ours):.1f} s",
              f"{sum(theirs):.1f} s", statistics.median(ratios), 0.95)
    shapes = blas("shapes")
    for shape in shapes:
        say(f"b2: OpenBLAS {shape['in']:5d} to {shape['out']:5d}, {shape['tokens']:5d} tokens: {shape['gflops']:6.1f} GFLOP/s, {shape['ratio']:.3f}")
    yield Row("b2", f"for comparison: OpenBLAS sgemm / peak of fused multiply-adds, median of {len(shapes)} shapes", "",
              f"{statistics.median(s['gflops'] for s in shapes):.0f} GFLOP/s", statistics.median(s["ratio"] for s in shapes))


def transformers_rate(rows, kind):
    found = lines(os.environ["PEER_PYTHON"], HERE / "peer_transformers.py", "--model", common.checkpoint(), "--rows", rows, "--tokens", TOKENS,
                  "--batch", BATCH_TOKENS // TOKENS, *(["--bf16"] if kind == "bfloat16" else []))[0]
    return found["tokens_per_s"], f"transformers {found['transformers']} {kind}"


def llama_rate(rows, kind):
    found = lines(sys.executable, HERE / "peer_llama.py", "--bench", os.environ["PEER_LLAMA"], "--model", common.checkpoint(), "--type", kind,
                  "--tokens", TOKENS, "--repeat", rows, "--threads", CORES)[0]
    version = f" {found['version']}" if found["version"] else ""
    return found["tokens_per_s"], f"llama.cpp{version} {kind.upper()}, pp{TOKENS}"


PEERS = {"llama.cpp F16": ("PEER_LLAMA", lambda rows: llama_rate(rows, "f16")),
         "llama.cpp BF16": ("PEER_LLAMA", lambda rows: llama_rate(rows, "bf16")),
         "llama.cpp Q8_0": ("PEER_LLAMA", lambda rows: llama_rate(rows, "q8_0")),
         "transformers float32": ("PEER_PYTHON", lambda rows: transformers_rate(rows, "float32")),
         "transformers bfloat16": ("PEER_PYTHON", lambda rows: transformers_rate(rows, "bfloat16"))}
OURS = {"none": "tokens/s", "bf16": "tokens/s in bfloat16"}
AGAINST = [("none", "llama.cpp F16", 1.35), ("none", "llama.cpp Q8_0", 1.85), ("none", "transformers float32", 1.9),
           ("bf16", "llama.cpp F16", 1.35), ("bf16", "llama.cpp BF16", None), ("bf16", "llama.cpp Q8_0", 1.85),
           ("bf16", "transformers float32", 1.9), ("bf16", "transformers bfloat16", None)]


def b3(turns=2):
    """Ours before and after the peers, in turns."""
    ours, found, rows = {kind: [] for kind in OURS}, {}, ROWS // 2 // turns

    def take_ours():
        for kind, rates in ours.items():
            rates.append(forward(rows, kind))

    for _ in range(turns):
        take_ours()
        for name, (variable, rate) in PEERS.items():
            if os.environ.get(variable):
                found.setdefault(name, []).append(rate(rows))
        take_ours()
    rates = {**{OURS[kind]: taken for kind, taken in ours.items()}, **{name: [rate for rate, _ in got] for name, got in found.items()}}
    say("b3: " + "; ".join(f"{name} {', '.join(f'{rate:.1f}' for rate in got)}" for name, got in rates.items()))
    for kind, name, target in AGAINST:
        if name not in found:
            yield Row("b3", f"{OURS[kind]} / {name}", f"not measured: {PEERS[name][0]}=.. (tests/bench/README.md)", "", None, target)
            continue
        own, peer = statistics.mean(ours[kind]), statistics.mean(rate for rate, _ in found[name])
        yield Row("b3", f"{OURS[kind]}, rows of {TOKENS} tokens / {found[name][0][1]}", f"{own:.1f} tokens/s", f"{peer:.1f} tokens/s",
                  own / peer, target)


def b4(turns=3):
    """The ceiling is the float32 peak, just before and after, over the multiply-adds that a token takes (bench_forward)."""
    for kind, name, target in (("int8", "int8", 1.35), ("bf16", "bfloat16", 1.6)):
        found = [measure(ROWS // 2, kind) for _ in range(turns)]
        share = statistics.median(f["share"] for f in found)
        rate = statistics.median(f["tokens_per_s"] for f in found)
        yield Row("b4", f"tokens/s of the forward in {name} / what float32's fused multiply-adds allow", f"{rate:.1f} tokens/s",
                  f"{rate / share:.1f} tokens/s", share, target)
    if os.environ.get("PEER_LLAMA"):
        ours, theirs = [], []
        for _ in range(2):
            ours.append(forward(ROWS // 2, "int8"))
            peer, name = llama_rate(ROWS // 2, "q8_0")
            theirs.append(peer)
        yield Row("b4", f"tokens/s in int8, rows of {TOKENS} tokens / {name}", f"{statistics.mean(ours):.1f} tokens/s",
                  f"{statistics.mean(theirs):.1f} tokens/s", statistics.mean(ours) / statistics.mean(theirs), 1.85)


def q4():
    """Processor time of one thread, in pairs: what else runs on the machine is in both."""
    found = lines(TOOLS / "bench_packed")
    for row in found:
        say(f"{row['packing']:18s} {row['dtype']:4s} {row['tokens']:4d} tokens {row['ms']:8.1f} ms, {row['ratio']:.3f} times bfloat16's speed")
    for tokens, target in ((8, 1.3), (512, 0.9)):
        for row in found:
            if row["tokens"] == tokens:
                yield Row("q4", f"product of {tokens} tokens, 4-bit weights of {row['packing']}, in {row['dtype']} / the same of bfloat16 weights",
                          f"{row['ms']:.1f} ms", f"{row['ms'] * row['ratio']:.1f} ms", row["ratio"], target)


def through_broker():
    """tokens/s from submit to the last result of rows of their own, and the share of that time that the rank idled (None: it does not say)."""
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        with harness.Broker(pathlib.Path(directory) / "d", model=common.checkpoint(), options=[
                "--max-batch-tokens", BATCH_TOKENS, "--max-len", TOKENS, "--threads", CORES]) as broker:
            with broker.client(timeout=600) as client:
                client.call("score", rows=[common.fresh_row(TOKENS)], timeout_ms=600000)
                rows, before, start = [common.fresh_row(TOKENS) for _ in range(ROWS)], client.call("info")["workers"][0], time.perf_counter()
                client.submit("bench", rows)
                done = client.results("bench", timeout=600)
                took, after = time.perf_counter() - start, client.call("info")["workers"][0]
                assert len(done) == ROWS and all(r["error"] is None for r in done)
    idle = 1 - (after["busy_us"] - before["busy_us"]) / (after["up_us"] - before["up_us"]) if "busy_us" in after else None
    return ROWS * TOKENS / took, idle


def d2():
    """And d1."""
    before = forward(ROWS // 2)
    rate, idle = through_broker()
    alone = (before + forward(ROWS // 2)) / 2
    yield Row("d2", "tokens/s from submit to last result / the forward in process", f"{rate:.1f} tokens/s", f"{alone:.1f} tokens/s",
              rate / alone, 0.99)
    if idle is not None:
        yield Row("d1", "share of that time that the rank idled (less is better)", f"{100 * idle:.3f} %", "", idle, 0.01)


def f1():
    """Sharing and not sharing in turns; of rows that share nothing a few stand for all. The ideal by tokens takes all of a token's work to be
    alike; by multiply-adds, that each response's tokens look at all of the prompt's."""
    model = common.checkpoint(layers=4)
    for n, prompt, own, alone, turns in ((8, 512, 512, 8, 3), (64, 4096, 512, 2, 1)):
        together, apart, few, gflop = [], [], prompt + n * own, {}
        for _ in range(turns):
            for times, rows, shared in ((apart, alone, 0), (together, n, prompt), (apart, alone, 0)):
                found = lines(TOOLS / "bench_forward", model, rows, prompt + own, few, CORES, shared)[0]
                times.append(found["cpu_seconds"] / rows)
                gflop[shared] = found["gflop"] / rows
        faster, ideal, by_work = statistics.median(apart) / statistics.median(together), n * (prompt + own) / few, gflop[0] / gflop[prompt]
        yield Row("f1", f"{n} responses of {own} tokens to a prompt of {prompt}, sharing it / ideal, 4 layers, processor time", f"{faster:.2f} times",
                  f"{ideal:.2f} times", faster / ideal, 0.93)
        yield Row("f1", "the same / ideal by multiply-adds", f"{faster:.2f} times", f"{by_work:.2f} times", faster / by_work)
