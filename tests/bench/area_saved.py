"""What is shared or kept: adapters over one base (lora), sessions that grow (append), scores of earlier jobs (hits)."""
import contextlib
import pathlib
import random
import statistics
import tempfile
import time

import common
from common import TOOLS, Chart, Row, harness, lines, say

LAYERS, TURNS = 3, 3  # of the 0.5B shape's 24; each layer is the same work


# ---- lora ----

RANK, ADAPTERS, ADAPTER_TOKENS, ADAPTER_LENGTHS = 16, (1, 2, 4, 8, 16, 32), 4096, (32, 256)


def adapted(model, paths, n, tokens):
    """tokens/s of one batch, by the time that processors gave; n adapters in turns, 0: the base alone."""
    command = [TOOLS / "bench_forward", model, ADAPTER_TOKENS // tokens, tokens, ADAPTER_TOKENS]
    options = [1, 0, "none", "auto", *(f"a{k}={path}" for k, path in enumerate(paths[:n]))] if n else [1]
    return lines(*command, *options)[0]["cpu_tokens_per_s"]


def lora():
    """Pairs: the base alone, and then each number of adapters."""
    model = common.checkpoint(LAYERS)
    paths, found = common.adapters(model, ADAPTERS[-1], RANK), {}
    for tokens in ADAPTER_LENGTHS:
        for _ in range(TURNS):
            base = adapted(model, paths, 0, tokens)
            for n in ADAPTERS:
                found.setdefault((tokens, n), []).append(adapted(model, paths, n, tokens) / base)
        say(f"lora: rows of {tokens} tokens: " + ", ".join(f"{n}: {statistics.median(found[tokens, n]):.3f}" for n in ADAPTERS))
    share = {key: statistics.median(ratios) for key, ratios in found.items()}
    for tokens in ADAPTER_LENGTHS:
        yield Row("lora", f"tokens/s with 8 adapters of rank {RANK} / of the base alone, rows of {tokens} tokens, processor time", "", "", share[tokens, 8])
    yield Chart("adapters", "Adapters of a batch", f"{LAYERS} layers of the 0.5B shape, one thread, a batch of {ADAPTER_TOKENS:,} tokens, adapters of rank "
                f"{RANK} on all matrices, which rows choose in turns: tokens/s by processor time, of the base's just before.",
                ["adapters", *(f"rows of {tokens} tokens" for tokens in ADAPTER_LENGTHS)],
                [[n, *(f"{share[tokens, n]:.3f}" for tokens in ADAPTER_LENGTHS)] for n in ADAPTERS],
                {f"rows of {tokens} tokens": [(n, share[tokens, n]) for n in ADAPTERS] for tokens in ADAPTER_LENGTHS},
                "adapters", "tokens/s, of the base's")


# ---- append ----

APPENDED, LENGTHS = 64, (64, 256, 1024, 4096, 8192)


def appended(of_a, of_b, prompt):
    """Seconds of a session that grows by some tokens and is scored, and of the row that it then is, sent whole to a broker without a cache."""
    numbers = common.NUMBERS
    ids, more = ([numbers.randrange(151936) for _ in range(n)] for n in (prompt, APPENDED))
    name = of_a.call("open", row={"ids": harness.ids_bytes(ids)})["session"]
    of_a.call("score", sessions=[name], timeout=600, timeout_ms=600000)
    start = time.perf_counter()
    name = of_a.call("append", sessions=[name], more=[{"ids": harness.ids_bytes(more)}])["sessions"][0]
    ours = of_a.call("score", sessions=[name], timeout=600, timeout_ms=600000)["rows"][0]
    between = time.perf_counter()
    whole = of_b.call("score", rows=[{"ids": harness.ids_bytes(ids + more)}], timeout=600, timeout_ms=600000)["rows"][0]
    seconds = between - start, time.perf_counter() - between
    assert ours["error"] is None and ours["score"] == whole["score"], "scores differ"
    of_a.call("close", sessions=[name])
    return seconds


def append():
    model, found = common.checkpoint(LAYERS), {n: [] for n in LENGTHS}
    options = ["--threads", common.CORES, "--max-len", LENGTHS[-1] + APPENDED]
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as path, contextlib.ExitStack() as stack:
        brokers = [stack.enter_context(harness.Broker(pathlib.Path(path) / name, model=model, options=[*options, *more]))
                   for name, more in (("a", ["--kv-cache", "1G"]), ("b", []))]
        clients = [stack.enter_context(broker.client()) for broker in brokers]
        appended(*clients, LENGTHS[0])
        for _ in range(TURNS):
            for n in LENGTHS:
                found[n].append(appended(*clients, n))
                say(f"append: to {n:,} tokens {found[n][-1][0] * 1e3:.0f} ms, the row sent whole {found[n][-1][1] * 1e3:.0f} ms")
    took = {n: [statistics.median(seconds) * 1e3 for seconds in zip(*pairs)] for n, pairs in found.items()}
    gain = {n: statistics.median(whole / ours for ours, whole in pairs) for n, pairs in found.items()}
    for n in (LENGTHS[2], LENGTHS[-1]):
        yield Row("append", f"a row of {n:,} tokens and {APPENDED} more: sent whole / appended to its session, with a KV cache", f"{took[n][0]:.0f} ms",
                  f"{took[n][1]:.0f} ms", gain[n])
    yield Chart("append", "A session that grows", f"{LAYERS} layers of the 0.5B shape, {APPENDED} tokens appended and scored (both requests counted), against "
                "the same row sent whole to a broker without a KV cache, in turns. Every score is the same to the bit.",
                ["tokens before", "appended, ms", "sent whole, ms", "times"],
                [[f"{n:,}", f"{took[n][0]:.0f}", f"{took[n][1]:.0f}", f"{gain[n]:.1f}"] for n in LENGTHS],
                {"appended": [(n, took[n][0]) for n in LENGTHS], "sent whole": [(n, took[n][1]) for n in LENGTHS]}, "tokens before", "ms", log_y=True)


# ---- hits ----

POOL, JOB_ROWS, JOB_TOKENS, JOBS = 256, 64, 128, 12


def job(client, key, rows):
    """(seconds, rows that the score cache had, scores)"""
    start = time.perf_counter()
    client.submit(key, rows)
    found = client.results(key, timeout=600)
    seconds = time.perf_counter() - start
    assert all(row["error"] is None for row in found)
    return seconds, client.call("status", job=key)["cached"], {row["i"]: row["score"] for row in found}


def hits():
    """The same jobs to two brokers, of which one has a score cache."""
    rng, model, found = random.Random(5), common.checkpoint(LAYERS), []
    pool = [common.fresh_row(JOB_TOKENS) for _ in range(POOL)]
    options = ["--threads", common.CORES]
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as path, contextlib.ExitStack() as stack:
        brokers = [stack.enter_context(harness.Broker(pathlib.Path(path) / name, model=model, options=[*options, *more]))
                   for name, more in (("a", ["--score-cache", "64M"]), ("b", []))]
        ours, theirs = (stack.enter_context(broker.client()) for broker in brokers)
        for client in (ours, theirs):
            job(client, "warm", [common.fresh_row(JOB_TOKENS) for _ in range(8)])
        for k in range(JOBS):
            rows = rng.sample(pool, JOB_ROWS)
            (seconds, cached, scores), (whole, none, wanted) = job(ours, f"j{k}", rows), job(theirs, f"j{k}", rows)
            assert scores == wanted and none == 0, "scores differ"
            expected = 1 - (1 - JOB_ROWS / POOL) ** k
            found.append((cached / JOB_ROWS, expected, seconds / whole))
            say(f"hits: job {k + 1}: {cached} of {JOB_ROWS} rows, {expected:.0%} expected, {seconds:.2f} s / {whole:.2f} s")
    names = "rows that the cache had", "expected", "time, of that without the cache"
    yield Row("hits", f"time of {JOBS} jobs without the score cache / with it, {JOB_ROWS} rows each from a pool of {POOL}", "", "",
              JOBS / sum(ratio for *_, ratio in found))
    yield Chart("cache-hits", "The score cache over jobs", f"{LAYERS} layers of the 0.5B shape; each job has {JOB_ROWS} rows of {JOB_TOKENS} tokens, drawn from the same "
                f"{POOL}, and goes to a broker with a score cache and to one without, one after the other. Every score is the same to the bit. Expected: the "
                "share of rows that an earlier job drew.",
                ["job", *names], [[k + 1, *(f"{value:.2f}" for value in values)] for k, values in enumerate(found)],
                {name: [(k + 1, values[at]) for k, values in enumerate(found)] for at, name in enumerate(names)}, "job", "share", log_x=False)
