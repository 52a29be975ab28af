"""f2: a beam search through the socket, by sessions and a KV cache, against the same rows sent whole."""
import json
import os
import pathlib
import random
import shutil
import statistics
import tempfile
import time

import common
from common import Row, harness, say

POOL = {"type": "LAST"}


def long_model(directory, max_len):
    """demo-process, for rows as long as this."""
    shutil.copytree(harness.MODELS / "demo-process", directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "max_position_embeddings": max_len}))
    return directory


class BySessions:
    """Forks, appends, scores and closes by name; what is sent is what is new."""

    def __init__(self, client, prompt, beams):
        self.client = client
        root = client.call("open", row={"ids": harness.ids_bytes(prompt), "pool": POOL})["session"]
        self.names = client.call("fork", session=root, n=beams)["sessions"]

    def step(self, parents, more):
        old = self.names
        if parents:
            forks = {p: iter(self.client.call("fork", session=old[p], n=parents.count(p))["sessions"]) for p in sorted(set(parents))}
            self.names = [next(forks[p]) for p in parents]
            self.client.call("close", sessions=old)
        self.names = self.client.call("append", sessions=self.names, more=[{"ids": harness.ids_bytes(ids)} for ids in more])["sessions"]
        return self.client.call("score", sessions=self.names, timeout=1200, timeout_ms=1200000)["rows"]


class Whole:
    """Sends each row with all its ids."""

    def __init__(self, client, prompt, beams):
        self.client, self.rows = client, [prompt] * beams

    def step(self, parents, more):
        self.rows = [self.rows[p] for p in parents] if parents else self.rows
        self.rows = [ids + what for ids, what in zip(self.rows, more)]
        rows = [{"ids": harness.ids_bytes(ids), "pool": POOL} for ids in self.rows]
        return self.client.call("score", rows=rows, timeout=1200, timeout_ms=1200000)["rows"]


def processor_seconds(broker):
    """Of the broker and its worker, so far."""
    def of(pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return sum(map(of, [broker.process.pid, *broker.worker_pids()]))


def search(model, directory, prompt, beams, steps, step_tokens, children):
    """Seconds of each way, step by step in turns, and processor seconds of each. Every score must be the same to the bit. The best of the
    beams go on, `children` ways each."""
    rng, seconds = random.Random(11), ([], [])
    ids = [rng.randrange(20, 250) for _ in range(prompt)]
    options = ["--threads", 1]
    with harness.Broker(directory / "a", model=model, options=[*options, "--kv-cache", "1G"]) as a, \
            harness.Broker(directory / "b", model=model, options=options) as b, a.client() as of_a, b.client() as of_b:
        ways, parents = (BySessions(of_a, ids, beams), Whole(of_b, ids, beams)), None
        for k in range(steps):
            more = [[rng.randrange(20, 250) for _ in range(step_tokens)] for _ in range(beams)]
            found = []
            for way, took in zip(ways, seconds):
                start = time.monotonic()
                found.append(way.step(parents, more))
                took.append(time.monotonic() - start)
            scores = [[row["score"] for row in rows] for rows in found]
            assert scores[0] == scores[1] and None not in scores[0], f"step {k}: scores differ"
            best = sorted(range(beams), key=lambda n: scores[0][n])[-beams // children:]
            parents = [n for n in best for _ in range(children)] if children > 1 else None
            say(f"f2 step {k + 1:2d}: {seconds[0][-1]:.2f} s, {seconds[1][-1]:.2f} s")
        return *seconds, processor_seconds(a), processor_seconds(b)


def f2():
    shapes = ((1024, 64, 20, 64, 1, 8.0), (1024, 64, 20, 64, 4, None), (512, 16, 40, 16, 1, None))
    for prompt, beams, steps, step_tokens, children, target in shapes:
        with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
            directory = pathlib.Path(directory)
            by_sessions, whole, ours, theirs = search(long_model(directory / "model", 4096), directory, prompt, beams, steps, step_tokens, children)
        say(f"f2: the last step alone {whole[-1] / by_sessions[-1]:.1f} times, the median {statistics.median(b / a for a, b in zip(by_sessions, whole)):.1f}")
        how = "each goes on" if children == 1 else f"a quarter goes on, {children} ways"
        yield Row("f2", f"{beams} beams on {prompt:,} tokens, {steps} steps of {step_tokens}, {how}: rows sent whole / sessions and KV cache",
                  f"{sum(by_sessions):.1f} s", f"{sum(whole):.1f} s", sum(whole) / sum(by_sessions), target)
        yield Row("f2", "the same in processor time of broker and worker", f"{ours:.1f} s", f"{theirs:.1f} s", theirs / ours)
