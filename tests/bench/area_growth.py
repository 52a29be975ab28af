"""How cost grows: over a row's length, the tokens of a batch, the ranks that share a model, its replicas; how long pipeline stages idle. (Over the queue's
depth: e1.)"""
import pathlib
import statistics
import tempfile
import time

import common
from common import CORES, TOOLS, Chart, Row, harness, lines, say

LAYERS = 3  # of the 0.5B shape's 24, so that a point takes seconds; each layer is the same work
TURNS = 2
LENGTHS = (8, 16, 32, 64, 128, 512, 2048, 8192, 32768)
LENGTH_BUDGET = 4096
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
BUDGET_LENGTH = 128


def sweep(points):
    """bench_forward at each (rows, tokens, batch_tokens), in turns; the mean of each."""
    model, found = common.checkpoint(LAYERS), [[] for _ in points]
    for _ in range(TURNS):
        for at, (rows, tokens, budget) in enumerate(points):
            if not found[at] or rows * tokens <= 2 * LENGTH_BUDGET:  # long rows: one turn
                found[at] += lines(TOOLS / "bench_forward", model, rows, tokens, budget)
                say(f"{rows} rows of {tokens} tokens, batches of {budget}: {found[at][-1]['share']:.3f} of the peak")
    return [{key: statistics.mean(turn[key] for turn in turns) for key in turns[0]} for turns in found]


def growth_chart(name, title, note, x, values, found):
    cells = [[f"{value:,}", f"{f['tokens_per_s']:,.0f}", f"{f['gflops']:.0f}", f"{f['peak']:.0f}", f"{f['share']:.2f}", f"{f['cpu_share']:.2f}"]
             for value, f in zip(values, found)]
    return Chart(name, title, note, [x, "tokens/s", "GFLOP/s", "peak of fused multiply-adds", "share of the peak", "by processor time"], cells,
                 {"by the clock": [(value, f["share"]) for value, f in zip(values, found)],
                  "by processor time": [(value, f["cpu_share"]) for value, f in zip(values, found)]}, x, "share of the peak")


def length():
    points = [(max(1, LENGTH_BUDGET // tokens), tokens, LENGTH_BUDGET) for tokens in LENGTHS]
    found = sweep(points)
    by_length = {tokens: f["share"] for tokens, f in zip(LENGTHS, found)}
    for tokens in (LENGTHS[0], LENGTHS[-1]):
        yield Row("len", f"share of the peak, rows of {tokens:,} tokens / of 512", f"{by_length[tokens]:.2f}", f"{by_length[512]:.2f}",
                  by_length[tokens] / by_length[512])
    yield growth_chart("row-length", "Length of a row", f"{LAYERS} layers of the 0.5B shape, rows packed to batches of {LENGTH_BUDGET:,} tokens (a longer "
                       "row is a batch of its own). Work for a token grows with the row, since it attends to all before it: the share of the "
                       "peak says whether the time does more than that.", "tokens of a row", LENGTHS, found)


def batch():
    points = [(max(1, 2 * LENGTH_BUDGET // BUDGET_LENGTH, budget // BUDGET_LENGTH), BUDGET_LENGTH, budget) for budget in BUDGETS]
    found = sweep(points)
    yield growth_chart("batch-budget", "Tokens of a batch", f"{LAYERS} layers of the 0.5B shape, rows of {BUDGET_LENGTH} tokens.",
                       "tokens of a batch", BUDGETS, found)


RANKS, RANK_LAYERS, RANK_ROWS, RANK_TURNS = (1, 2, 4), 3, 8, 3
REPLICAS, REPLICA_ROWS, REPLICA_BUDGET = (1, 2, 4), 16, 512


def scored(broker, key, n_rows):
    """tokens/s of some 512-token rows through a broker."""
    rows = [common.fresh_row(common.TOKENS) for _ in range(n_rows)]
    with broker.client(timeout=600) as client:
        start = time.perf_counter()
        client.submit(key, rows)
        assert all(r["error"] is None for r in client.results(key, timeout=600))
        return n_rows * common.TOKENS / (time.perf_counter() - start)


def side_by_side(option, counts, model, n_rows, budget):
    """Brokers with so many of what the option says wait beside each other, and score in turns: (tokens/s, of the first's), by count."""
    rates = {n: [] for n in counts}
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        brokers = {n: harness.Broker(pathlib.Path(directory) / str(n), model=model, options=[
            option, n, "--threads", max(n, CORES), "--max-batch-tokens", budget, "--max-len", common.TOKENS]) for n in counts}
        try:
            for broker in brokers.values():
                scored(broker.start(), "warm", n_rows)
            for turn in range(RANK_TURNS):
                for n, broker in brokers.items():
                    rates[n].append(scored(broker, f"turn-{turn}", n_rows))
        finally:
            for broker in brokers.values():
                if broker.process:
                    broker.__exit__()
    for n, got in rates.items():
        say(f"{option} {n}: {', '.join(f'{rate:.0f}' for rate in got)} tokens/s")
    return {n: (statistics.median(got), statistics.median(a / b for a, b in zip(got, rates[counts[0]]))) for n, got in rates.items()}


def scaling(name, what, title, note, found):
    """The row and the chart of what side_by_side found."""
    yield Row(name, f"tokens/s, 2 {what} / 1, {CORES} threads in all", f"{found[2][0]:.0f} tokens/s", f"{found[1][0]:.0f} tokens/s", found[2][1], 0.95)
    yield Chart(what, title, note, [what, "threads in all", "tokens/s", "of one"],
                [[n, max(n, CORES), f"{rate:.0f}", f"{of_one:.2f}"] for n, (rate, of_one) in found.items()],
                {"tokens/s, of one's": [(n, of_one) for n, (_, of_one) in found.items()]}, what, "tokens/s, of one's")


def ranks():
    yield from scaling("tp", "ranks", "Ranks on one machine", f"{RANK_LAYERS} layers of the 1.5B shape (whose heads four ranks can share), {RANK_ROWS} rows of "
                       f"{common.TOKENS} tokens from submit to last result. All share the same {CORES} cores: more ranks than cores is more threads than cores.",
                       side_by_side("--tp", RANKS, common.checkpoint(RANK_LAYERS, "1.5b"), RANK_ROWS, common.BATCH_TOKENS))


def replicas():
    yield from scaling("rep", "replicas", "Replicas on one machine", f"{LAYERS} layers of the 0.5B shape, {REPLICA_ROWS} rows of {common.TOKENS} tokens in batches of "
                       f"{REPLICA_BUDGET}, from submit to last result. All share the same {CORES} cores, a thread each at least.",
                       side_by_side("--replicas", REPLICAS, common.checkpoint(LAYERS), REPLICA_ROWS, REPLICA_BUDGET))


STAGES, STAGE_LAYERS, STAGE_ROWS, STAGE_BUDGET = (1, 2, 4), 24, 16, 512


def busy_of(client):
    """Seconds that each rank has computed."""
    return [worker["busy_us"] / 1e6 for worker in client.call("info")["workers"]]


def piped(broker, key):
    """tokens/s of a job, and the share of its time that the ranks did not compute."""
    rows = [common.fresh_row(common.TOKENS) for _ in range(STAGE_ROWS)]
    with broker.client(timeout=600) as client:
        before, start = busy_of(client), time.perf_counter()
        client.submit(key, rows)
        assert all(r["error"] is None for r in client.results(key, timeout=600))
        seconds = time.perf_counter() - start
        busy = [after - earlier for earlier, after in zip(before, busy_of(client))]
    return STAGE_ROWS * common.TOKENS / seconds, 1 - statistics.mean(busy) / seconds


def resident(pid):
    """MB of a process in memory: those of the checkpoint's file among them, and the others."""
    with open(f"/proc/{pid}/status") as f:
        kb = {line.split(":")[0]: int(line.split()[1]) for line in f if line.startswith("Rss")}
    return kb["RssFile"] / 1e3, (kb["RssAnon"] + kb["RssShmem"]) / 1e3


def stages():
    """Brokers one after the other: what idles would share the cores with what does not."""
    model, found = common.checkpoint(STAGE_LAYERS), {}
    for n in STAGES:
        with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
            with harness.Broker(pathlib.Path(directory) / "d", model=model, options=[
                    "--pp", n, "--threads", max(n, CORES), "--max-batch-tokens", STAGE_BUDGET, "--max-len", common.TOKENS]) as broker:
                piped(broker, "warm")
                turns = [piped(broker, f"turn-{turn}") for turn in range(TURNS)]
                found[n] = [statistics.median(values) for values in zip(*turns)] + [[resident(pid) for pid in broker.worker_pids()]]
        say(f"pp {n}: {found[n][0]:.0f} tokens/s, {found[n][1]:.1%} idle, memory of file and own {[tuple(map(round, m)) for m in found[n][2]]} MB")
    batches = STAGE_ROWS * common.TOKENS // STAGE_BUDGET
    ideal = {n: (n - 1) / (batches + n - 1) for n in STAGES}
    yield Row("pp", f"tokens/s, 2 stages / 1 stage, {CORES} threads in all", f"{found[2][0]:.0f} tokens/s", f"{found[1][0]:.0f} tokens/s",
              found[2][0] / found[1][0])
    yield Row("pp", f"share of a job's time that 2 stages idled / of {batches} equal batches (less is better)", f"{found[2][1]:.1%}", f"{ideal[2]:.1%}",
              found[2][1] / ideal[2])
    yield Chart("stages", "Pipeline stages on one machine", f"{STAGE_LAYERS} layers of the 0.5B shape, {STAGE_ROWS} rows of {common.TOKENS} tokens in "
                f"batches of {STAGE_BUDGET}, from submit to last result. Idle is the time that a stage does not compute, waiting for a core not "
                f"counted: with 4 stages on {CORES} cores each computes half as fast. Filling and draining alone idle (stages - 1) / (batches + stages - 1).",
                ["stages", "tokens/s", "of one stage", "idle", "filling and draining", "largest stage: MB of the file, of its own"],
                [[n, f"{found[n][0]:.0f}", f"{found[n][0] / found[1][0]:.2f}", f"{found[n][1]:.1%}", f"{ideal[n]:.1%}",
                  ", ".join(f"{mb:.0f}" for mb in max(found[n][2]))] for n in STAGES],
                {"idle": [(n, found[n][1]) for n in STAGES], "filling and draining": [(n, ideal[n]) for n in STAGES]}, "stages", "share of the time")
