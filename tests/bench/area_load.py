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


def row_of(tokens):
    return {"ids": harness.ids_bytes([(k * 7919) % 151936 for k in range(tokens)])}


def time_of_score(client):
    start = time.perf_counter()
    client.call("score", rows=[row_of(1)], timeout_ms=60000)
    return time.perf_counter() - start


def start_times(model, directory):
    """Seconds from a worker's start to READY, and what its first score takes more than later ones: the weights are used then."""
    with broker_on(model, directory) as broker, broker.client() as client:
        ready = harness.wait_until(lambda: re.findall(r"event=group_ready .*start_ms=(\d+)", broker.words()), timeout=60)
        first = time_of_score(client)
        later = statistics.median(time_of_score(client) for _ in range(5))
    return int(ready[-1]) / 1e3, max(0.0, first - later)


def g1():
    model = common.checkpoint()
    file = model / "model.safetensors"
    size, reads, starts = file.stat().st_size, [], []
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        start_times(model, pathlib.Path(directory) / "d")  # the checkpoint's digest is kept beside the database
        for _ in range(TURNS):
            reads.append(page_cache_rate(file))
            starts.append(start_times(model, pathlib.Path(directory) / "d"))
    for rate, (ready, touch) in zip(reads, starts):
        say(f"g1: read() {rate / 1e9:.2f} GB/s; worker ready after {ready * 1e3:.0f} ms, first score {touch * 1e3:.0f} ms more than later ones")
    read = statistics.median(reads)
    loaded = statistics.median(size / (ready + touch) for ready, touch in starts)
    ready = statistics.median(size / ready for ready, _ in starts)
    yield Row("g1", "weights mapped and first used, from the start of a worker / read() of the same file, both from the page cache",
              f"{loaded / 1e9:.2f} GB/s", f"{read / 1e9:.2f} GB/s", loaded / read, 0.75)
    yield Row("g1", "the same, until the worker is ready: the file is mapped, not read", f"{ready / 1e9:.2f} GB/s", f"{read / 1e9:.2f} GB/s", ready / read)


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
            client.submit("full", [row_of(TOKENS)] * (4 * copies * BATCH_TOKENS // TOKENS))
            assert all(r["error"] is None for r in client.results("full", timeout=600))
            return [memory_of(pid) for pid in broker.worker_pids()]


def h1():
    """On few layers too: the less the weights are, the more shows what else there is."""
    for layers in (None, 3):
        model = common.checkpoint(layers)
        weights = os.path.getsize(model / "model.safetensors")
        bound = lines(TOOLS / "bench_forward", common.checkpoint(3), 4, TOKENS, BATCH_TOKENS)[0]["memory_bytes"]
        one, two = memory_at_work(model, 1), memory_at_work(model, 2)
        for worker in one + two:
            say("h1: " + ", ".join(f"{name} {size / 1e6:.1f}" for name, size in worker.items()) + " MB")
        say(f"h1: weights {weights / 1e6:.1f} MB, activations, input and output {bound / 1e6:.1f} MB at most")
        name = f"{layers} layers" if layers else "all layers"
        yield Row("h1", f"weights + bound of the activations / a worker's peak memory, {name}", f"{one[0]['peak'] / 1e6:.0f} MB",
                  f"{(weights + bound) / 1e6:.0f} MB", (weights + bound) / one[0]["peak"], 0.97 if not layers else None)
        together = sum(worker["pss"] for worker in two)
        yield Row("h1", f"weights once + bound of each / two copies' memory together, {name}", f"{together / 1e6:.0f} MB",
                  f"{(weights + 2 * bound) / 1e6:.0f} MB", (weights + 2 * bound) / together)
