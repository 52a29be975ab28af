"""b1 to b3, d2: the forward on the CPU against its ceilings and its peers."""
import os
import pathlib
import statistics
import tempfile
import time

import common
from common import BATCH_TOKENS, CORES, HERE, ROWS, TOKENS, TOOLS, Row, harness, lines, say


def b1():
    rows = lines(TOOLS / "bench_gemm")
    for row in rows:
        say(f"{row['shape']:14s} {row['tokens']:5d} tokens {row['dtype']:5s} {row['gflops']:7.1f} GFLOP/s of {row['peak']:.1f}: {row['ratio']:.3f}")
    rows = [row for row in rows if row["tokens"] >= 512]
    ratios = [row["ratio"] for row in rows]
    yield Row("b1", f"matrix products / peak of fused multiply-adds, median of {len(rows)} shapes",
              f"{statistics.median(r['gflops'] for r in rows):.0f} GFLOP/s", f"{statistics.median(r['peak'] for r in rows):.0f} GFLOP/s",
              statistics.median(ratios), 0.87)
    yield Row("b1", "the same, worst shape", "", "", min(ratios))


def forward(rows=ROWS, model=None):
    """tokens/s in process."""
    return lines(TOOLS / "bench_forward", model or common.checkpoint(), rows, TOKENS, BATCH_TOKENS)[0]["tokens_per_s"]


def b3():
    python = os.environ.get("PEER_PYTHON")
    if not python:
        say("b3: no PEER_PYTHON, the peer was not measured")
        return
    ours = forward()
    peer = lines(python, HERE / "peer_transformers.py", "--model", common.checkpoint(), "--rows", ROWS, "--tokens", TOKENS,
                 "--batch", BATCH_TOKENS // TOKENS)[0]
    yield Row("b3", f"tokens/s / transformers {peer['transformers']} float32", f"{ours:.1f} tokens/s",
              f"{peer['tokens_per_s']:.1f} tokens/s", ours / peer["tokens_per_s"], 1.7)


def through_broker():
    """tokens/s from submit to the last result of the same rows."""
    row = {"ids": harness.ids_bytes([(k * 7919) % 151936 for k in range(TOKENS)])}
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        with harness.Broker(pathlib.Path(directory) / "d", model=common.checkpoint(), options=[
                "--max-batch-tokens", BATCH_TOKENS, "--max-len", TOKENS, "--threads", CORES]) as broker:
            with broker.client(timeout=600) as client:
                client.call("score", rows=[row], timeout_ms=600000)
                start = time.perf_counter()
                client.submit("bench", [row] * ROWS)
                done = client.results("bench", timeout=600)
                took = time.perf_counter() - start
                assert len(done) == ROWS and all(r["error"] is None for r in done)
    return ROWS * TOKENS / took


def d2():
    before = forward()
    rate = through_broker()
    alone = (before + forward()) / 2
    yield Row("d2", "tokens/s from submit to last result / the forward in process", f"{rate:.1f} tokens/s", f"{alone:.1f} tokens/s",
              rate / alone, 0.97)
