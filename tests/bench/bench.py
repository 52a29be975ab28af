"""Measures and prints one table: each figure as a ratio to a ceiling or a peer taken in the same run.

    make bench                                    what needs nothing more than Assay
    make bench PEER_PYTHON=/path/to/python        also transformers float32, with a Python that has PyTorch

b1  GEMM rate / peak rate of fused multiply-adds
b3  tokens/s of the forward, 0.5B shape, 512-token rows / transformers float32 on a model of the same shape
c1  durable rows/s through the socket, 512-token rows, 32 requests pipelined / the disk alone, same commits
d2  tokens/s from submit to last result through broker, shared memory and worker / the forward in process
"""
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

import msgpack

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness  # noqa: E402

TOOLS = harness.BIN.parent / "tests/bench"
BIG = ROOT / "build/bench/qwen2.5-0.5b-shape"
ROWS, TOKENS, BATCH_TOKENS = 16, 512, 2048


def lines(*command):
    """A program's JSON lines."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def b1():
    rows = lines(TOOLS / "bench_gemm")
    big = [row for row in rows if row["tokens"] >= 512]
    for row in rows:
        print(f"      {row['shape']:14s} {row['tokens']:5d} tokens {row['dtype']:5s} {row['gflops']:7.1f} GFLOP/s "
              f"of {row['peak']:.1f}: {row['ratio']:.3f}", file=sys.stderr)
    ratios = [row["ratio"] for row in big]
    yield ("b1", f"GEMM / FMA peak, median of {len(big)} shapes", f"{statistics.median(r['gflops'] for r in big):.0f} GFLOP/s",
           f"{statistics.median(r['peak'] for r in big):.0f} GFLOP/s", statistics.median(ratios))
    yield ("b1", "the same, worst shape", "", "", min(ratios))


def forward():
    return lines(TOOLS / "bench_forward", BIG, ROWS, TOKENS, BATCH_TOKENS)[0]["tokens_per_s"]


def b3(ours):
    python = os.environ.get("PEER_PYTHON")
    if not python:
        print("      b3: no PEER_PYTHON, the peer was not measured", file=sys.stderr)
        return
    peer = lines(python, HERE / "peer_transformers.py", "--model", BIG, "--rows", ROWS, "--tokens", TOKENS,
                 "--batch", BATCH_TOKENS // TOKENS)[0]
    yield ("b3", f"tokens/s / transformers {peer['transformers']} float32", f"{ours:.1f} tokens/s",
           f"{peer['tokens_per_s']:.1f} tokens/s", ours / peer["tokens_per_s"])


def pipelined_submits(endpoint, seconds, window=32, rows_each=64):
    """Acknowledged rows/s: `window` submits under way, each a chunk of rows."""
    import zmq
    row = {"ids": harness.ids_bytes([k % 500 for k in range(TOKENS)])}
    rows = [row] * rows_each
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = 0
    socket.connect(endpoint)
    bodies = msgpack.packb(rows)

    def send(n):
        body = msgpack.packb({"v": 1, "op": "submit", "key": f"bench-{n % window}-{os.getpid()}", "chunk": n // window})
        socket.send(bytes([body[0] + 1]) + body[1:] + b"\xa4rows" + bodies)

    sent = acknowledged = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        while sent - acknowledged < window:
            send(sent)
            sent += 1
        reply = msgpack.unpackb(socket.recv())
        assert reply["ok"], reply
        acknowledged += 1
    took = time.perf_counter() - start
    socket.close()
    context.term()
    return acknowledged * rows_each / took


def c1():
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        text = subprocess.run([TOOLS / "bench_store", directory], capture_output=True, text=True, check=True).stdout
    alone = float(re.search(r"disk alone\s+(\d+) rows/s", text).group(1))
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        with harness.Broker(pathlib.Path(directory) / "d", options=["--max-batch-tokens", 512]) as broker:
            rate = pipelined_submits(broker.endpoint, 4)
    yield ("c1", "durable rows/s through the socket / disk alone", f"{rate:,.0f} rows/s", f"{alone:,.0f} rows/s", rate / alone)


def through_broker():
    """tokens/s from submit to the last result of the same rows."""
    row = {"ids": harness.ids_bytes([(k * 7919) % 151936 for k in range(TOKENS)])}
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        with harness.Broker(pathlib.Path(directory) / "d", model=BIG, options=[
                "--max-batch-tokens", BATCH_TOKENS, "--max-len", TOKENS, "--threads", os.cpu_count()]) as broker:
            with broker.client(timeout=600) as client:
                client.call("score", rows=[row], timeout_ms=600000)
                start = time.perf_counter()
                client.submit("bench", [row] * ROWS)
                done = client.results("bench", timeout=600)
                took = time.perf_counter() - start
                assert len(done) == ROWS and all(r["error"] is None for r in done)
    return ROWS * TOKENS / took


def main():
    if not (BIG / "model.safetensors").exists():
        print("making a 0.5B-shaped checkpoint in build/bench (1 GB)", file=sys.stderr)
        subprocess.run([sys.executable, HERE / "make_big.py", BIG], check=True)
    table = list(b1())
    ours = forward()
    table += list(b3(ours)) + list(c1())
    rate = through_broker()
    again = forward()
    table.append(("d2", "submit to last result / forward in process", f"{rate:.1f} tokens/s",
                  f"{(ours + again) / 2:.1f} tokens/s", rate / ((ours + again) / 2)))
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}\n")
    print("| id | what | Assay | ceiling or peer | ratio |\n|---|---|---|---|---|")
    for name, what, got, of, ratio in table:
        print(f"| {name} | {what} | {got} | {of} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
