"""g1: how fast a worker has its weights; h1: what memory it takes."""
import os
import pathlib
import re
import statistics
import tempfile
import time

import common
from common import BATCH_TOKENS, CORES, TOKENS, TOOLS, Row, harness, lines, say

TURNS = 5
BLOCK_BYTES = 1 << 20


def page_cache_rate(file):
    """Bytes/s of read(), the file being in the page cache."""
    block = bytearray(BLOCK_BYTES)
    with open(file, "rb", buffering=0) as f:
        start = time.perf_counter()
        while f.readinto(block):
            pass
        return file.stat().st_size / (time.perf_counter() - start)


def broker_on(model, directory, *options):
    return harness.Broker(directory, model=model, options=["--max-batch-tokens", BATCH_TOKENS, "--max-len", TOKENS, "--threads", CORES, *options])


def row_of(tokens, number):
    """Ids that lie apart, other ones in each row: rows enough touch every page of the embedding."""
    return {"ids": harness.ids_bytes([(number * tokens + k) * 36 % 151936 for k in range(tokens)])}


def start_times(model, directory):
    """Seconds from a worker's start to READY, and of a row like the one that it scores before it says so."""
    with broker_on(model, directory) as broker, broker.client() as client:
        ready = harness.wait_until(lambda: re.findall(r"event=group_ready .*start_ms=(\d+)", broker.words()), timeout=60)
        rows = []
        for _ in range(5):
            row, start = common.fresh_row(8), time.perf_counter()
            client.call("score", rows=[row], timeout_ms=60000)
            rows.append(time.perf_counter() - start)
    return int(ready[-1]) / 1e3, statistics.median(rows)


def g1():
    """READY comes after a first row of 8 tokens was scored, so every matrix of the layers has been used by then."""
    model = common.checkpoint()
    file = model / "model.safetensors"
    size, reads, starts = file.stat().st_size, [], []
    used = size - 151936 * 896 * 2  # all but the embedding
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        start_times(model, pathlib.Path(directory) / "d")  # the checkpoint's digest is kept beside the database
        for _ in range(TURNS):
            reads.append(page_cache_rate(file))
            starts.append(start_times(model, pathlib.Path(directory) / "d"))
    for rate, (ready, row) in zip(reads, starts):
        say(f"g1: read() {rate / 1e9:.2f} GB/s; worker ready after {ready * 1e3:.0f} ms, a row of 8 tokens takes {row * 1e3:.0f} ms")
    read = statistics.median(reads)
    ready = statistics.median(size / ready for ready, _ in starts) / 1e9
    alone = statistics.median(used / max(ready - row, 0.001) for ready, row in starts) / 1e9
    yield Row("g1", "weights / time from a worker's start to its first row scored, to read() of the same file, both from the page cache",
              f"{ready:.2f} GB/s", f"{read / 1e9:.2f} GB/s", ready * 1e9 / read, 0.9)
    if alone < used / 1e9 / 0.005:  # else the two times are too near to each other to tell
        yield Row("g1", "the same of what that row used, without its own time", f"{alone:.2f} GB/s", f"{read / 1e9:.2f} GB/s", alone * 1e9 / read)


def memory_of(pid):
    """Bytes of a process: at its peak, now, now by its share of shared pages."""
    process = pathlib.Path(f"/proc/{pid}")
    peak = re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text()).group(1)
    now = dict(re.findall(r"(\w+):\s+(\d+) kB", (process / "smaps_rollup").read_text()))
    return {"peak": int(peak) << 10, **{name.lower(): int(now[name]) << 10 for name in ("Rss", "Pss", "Anonymous", "Shared_Clean", "Private_Clean")}}


def memory_at_work(model, copies):
    """What each worker holds once it had full batches."""
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        with broker_on(model, pathlib.Path(directory) / "d", "--replicas", copies) as broker, broker.client(timeout=600) as client:
            client.submit("full", [row_of(TOKENS, k) for k in range(16 * copies)])
            assert all(r["error"] is None for r in client.results("full", timeout=600))
            return [memory_of(pid) for pid in broker.worker_pids()]


def h1():
    """On few layers: the less the weights are, the more shows what else there is. Less is better here."""
    model = common.checkpoint(3)
    weights = os.path.getsize(model / "model.safetensors")
    bound = lines(TOOLS / "bench_forward", model, 4, TOKENS, BATCH_TOKENS)[0]["memory_bytes"]
    one, two = memory_at_work(model, 1), memory_at_work(model, 2)
    for worker in one + two:
        say("h1: " + ", ".join(f"{name} {size / 1e6:.1f}" for name, size in worker.items()) + " MB")
    say(f"h1: weights {weights / 1e6:.1f} MB, activations, input and output {bound / 1e6:.1f} MB at most")
    peak, together = one[0]["peak"], sum(worker["pss"] for worker in two)
    yield Row("h1", "peak memory of a worker / weights + bound of its activations (less is better)", f"{peak / 1e6:.0f} MB",
              f"{(weights + bound) / 1e6:.0f} MB", peak / (weights + bound), 1.03)
    yield Row("h1", "memory of two copies together / weights once + bound of each (less is better)", f"{together / 1e6:.0f} MB",
              f"{(weights + 2 * bound) / 1e6:.0f} MB", together / (weights + 2 * bound), 1.03)
