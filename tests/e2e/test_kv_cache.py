"""--kv-cache: rows that begin like rows of earlier batches and jobs are computed from there on, and not one bit of one result is different."""
import os
import random
import re
import signal
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, ids_bytes, wait_until
from test_sharing import OF_CLASSES, POOLS

ROUNDS = 4


def jobs_of(pools, step_token=3, seed=1):
    """Some jobs: rows that go on from five prompts, and from each other's first tokens, pooled in every way."""
    rng, known, jobs = random.Random(seed), [], []
    for k in range(5):
        known.append([step_token] + [rng.randrange(20, 250) for _ in range(50 + 37 * k)])
    for _ in range(ROUNDS):
        job = []
        for r in range(36):
            start = rng.choice(known)
            ids = start[:rng.randint(46, len(start))] + [rng.randrange(20, 250) for _ in range(rng.randint(1, 40))] + [step_token]
            known.append(ids)
            job.append({"ids": ids_bytes(ids), "pool": pools[r % len(pools)]})
        jobs.append(job)
    return jobs


def reused(client):
    """Tokens given and reused, and bytes, of every rank: the same for all."""
    workers = client.call("info")["workers"]
    assert len({(w["tokens"], w["reused"], w["kv_bytes"]) for w in workers}) == 1, workers
    return workers[0]["tokens"], workers[0]["reused"], workers[0]["kv_bytes"]


def kill_rank(client, rank):
    """Wait until all ranks are ready, kill one, and wait until all are ready again."""
    def ready(restarts):
        workers = client.call("info")["workers"]
        return all(w["state"] == "ready" and w["pid"] > 0 and w["restarts"] >= restarts for w in workers) and workers
    before = wait_until(lambda: ready(0))
    os.kill(before[rank]["pid"], signal.SIGKILL)
    wait_until(lambda: ready(before[rank]["restarts"] + 1))


def run(directory, name, jobs, options=(), between=None, **how):
    """The results of all jobs, one after the other, and `reused` at the end."""
    with Broker(directory / name, options=options, **how) as broker, broker.client() as client:
        found = []
        for k, rows in enumerate(jobs):
            if between:
                between(broker, client, k)
            client.submit(f"job-{k}", rows)
            found.append(sorted(client.results(f"job-{k}", timeout=120), key=lambda row: row["i"]))
        return found, reused(client)


@pytest.mark.parametrize("model,tp,more", [("process", 1, []), ("window", 1, ["--dtype", "bf16"]), ("reward", 1, ["--quant", "int8"]),
                                           ("tp-12-4", 4, []), ("seqcls", 2, ["--no-prefix-sharing"]),
                                           ("quantized/awq-int4", 1, [])])
def test_the_same_bytes_for_every_pooling(directory, model, tp, more):
    jobs = jobs_of(POOLS + OF_CLASSES if model == "process" else POOLS)
    options = ["--tp", tp, "--max-batch-tokens", 512, *more]
    without, (given, none, nothing) = run(directory, "without", jobs, options, model=MODELS / model)
    with_cache, (same, many, size) = run(directory, "with", jobs, [*options, "--kv-cache", "64M"], model=MODELS / model)
    small, (_, some, bounded) = run(directory, "small", jobs, [*options, "--kv-cache", "1M"], model=MODELS / model)
    assert with_cache == without and small == without
    assert all(row["error"] is None for job in without for row in job)
    assert (none, nothing) == (0, 0) and 0 < size <= 64 << 20 and bounded <= 1 << 20
    assert 0.2 * given < many < same and some <= many, (given, same, many, some)


def test_rows_that_go_in_chunks(directory):
    """Of more tokens than a batch, with a cache that has room for the longest row; others, and their neighbours, beside them."""
    jobs, rng = jobs_of(POOLS), random.Random(4)
    for rows in jobs:
        for pool in POOLS:
            rows.append({"ids": ids_bytes([3] + [rng.randrange(20, 250) for _ in range(rng.randint(200, 1022))] + [3]), "pool": pool})
    for tp in (1, 2):
        options = ["--tp", tp, "--max-batch-tokens", 100]
        without, _ = run(directory, f"without-{tp}", jobs, options, model=MODELS / "seqcls")
        chunks, (given, many, _) = run(directory, f"chunks-{tp}", jobs, [*options, "--kv-cache", "16M"], model=MODELS / "seqcls")
        assert chunks == without and 0 < many < given


def test_rows_through_adapters(directory):
    """The same ids through another adapter, or none, are other rows."""
    loras = [f"all={MODELS}/lora/reward-all", f"half={MODELS}/lora/reward-half"]
    options = ["--max-batch-tokens", 512] + [word for lora in loras for word in ("--lora", lora)]
    jobs = jobs_of(POOLS)
    turns = [[{**row, **({"adapter": name} if name else {})} for row in rows] for rows in jobs[:2] for name in ("all", None, "half", "all")]
    without, _ = run(directory, "without", turns, options, model=MODELS / "reward")
    with_cache, (given, many, _) = run(directory, "with", turns, [*options, "--kv-cache", "64M"], model=MODELS / "reward")
    assert with_cache == without and many > 0.2 * given


def test_a_killed_rank_begins_with_an_empty_cache(directory):
    """And so do the others of its group."""
    def kill_one(broker, client, k):
        if k > 0:
            kill_rank(client, k % 2)
    jobs, options = jobs_of(POOLS), ["--tp", 2, "--max-batch-tokens", 256, "--kv-cache", "64M"]
    without, _ = run(directory, "without", jobs, options[:-2], model=MODELS / "seqcls")
    killed, (given, many, _) = run(directory, "killed", jobs, options, between=kill_one, model=MODELS / "seqcls")
    assert killed == without and given > many > 0


def test_killed_in_the_middle_of_a_job(directory):
    jobs = [sum(jobs_of(POOLS, seed=seed), []) for seed in range(3)]
    options = ["--tp", 2, "--max-batch-tokens", 128]
    without, _ = run(directory, "without", jobs, options, model=MODELS / "seqcls")
    with Broker(directory / "d", options=[*options, "--kv-cache", "2M"], model=MODELS / "seqcls") as broker, broker.client() as client:
        for k, rows in enumerate(jobs):
            client.submit(f"job-{k}", rows)
        for k in range(5):
            done = wait_until(lambda: (counts := [client.call("status", job=f"job-{j}")["done"] for j in range(3)]) and sum(counts) > 40 * k
                              and sum(counts))
            if done == sum(map(len, jobs)):
                break
            kill_rank(client, k % 2)
        assert k > 0
        found = [sorted(client.results(f"job-{k}", timeout=120), key=lambda row: row["i"]) for k in range(3)]
    assert found == without


@pytest.mark.parametrize("size,words", [("100", "expected room for 16 tokens at least, found 100 bytes"),
                                        ("1000T", "expected at most this machine's memory")])
def test_a_cache_of_no_use_is_refused(directory, size, words):
    """By name, at the start."""
    done = subprocess.run([BIN / "assayd", "--model", MODELS / "seqcls", "--data", directory / "d", "--kv-cache", size],
                          capture_output=True, text=True, timeout=20 * PATIENCE)
    assert done.returncode == os.EX_CONFIG and f"--kv-cache: {words}" in done.stderr, done.stderr


def test_a_cache_s_size_is_one():
    for size in ("0", "1.5G", "x", "-1"):
        done = subprocess.run([BIN / "assayd", "--model", "x", "--kv-cache", size], capture_output=True, text=True)
        assert done.returncode == os.EX_USAGE and "--kv-cache: expected a size" in done.stderr, (size, done.stderr)


def test_the_example_as_printed(directory):
    """The README's: the second row's first block is the first row's."""
    example = next(text for text in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "--kv-cache" in text)
    example = example.replace("build/cpu/bin", str(BIN)).replace("tests/models", str(MODELS))
    done = subprocess.run(["bash", "-m", "-c", example], cwd=directory, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.stdout == '"reused":16\n', (done.stdout, done.stderr)
