"""v1: tokens/s beside vLLM's on the CPU, form by form; v3: whose scores change with their batch."""
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import common
from common import BATCH_TOKENS, CORES, HERE, SCRATCH, TOKENS, Row, harness, say

ROWS, ADAPTERS, RANK = 4, 8, 16
# For a machine that has little time: fewer of the shape's layers, fewer turns, some of the cases.
LAYERS, TURNS = (int(os.environ.get(name, default)) for name, default in (("PEER_LAYERS", 24), ("PEER_TURNS", 5)))
# Both have the same cores, and vLLM's threads are not bound to any: other programs run there, too.
ENVIRONMENT = {"OMP_NUM_THREADS": str(CORES), "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1",
               "VLLM_NO_USAGE_STATS": "1"}
MISSING = "not measured: PEER_VLLM=.. (tests/bench/README.md)"


@dataclasses.dataclass
class Case:
    """One checkpoint, given to both."""
    name: str
    form: str = ""  # of big_forms.py
    options: tuple = ()  # of assayd
    dtype: str = "bfloat16"  # of vLLM
    adapters: int = 0


BF16, STORED, WEIGHTS = ("--dtype", "bf16"), ("--activations", "as-stored"), ("--activations", "weights-only")
CASES = [Case("float32", dtype="float32"), Case("bfloat16", options=BF16),
         Case(f"float32, {ADAPTERS} adapters of rank {RANK}", dtype="float32", adapters=ADAPTERS),
         Case(f"bfloat16, {ADAPTERS} adapters of rank {RANK}", options=BF16, adapters=ADAPTERS),
         Case("4-bit, compressed-tensors, bfloat16", "int4", BF16), Case("4-bit, GPTQ, bfloat16", "gptq", BF16),
         Case("4-bit, AWQ, bfloat16", "awq", BF16), Case("int8 W8A8, activations rounded, float32 / bfloat16", "int8", STORED),
         Case("int8 W8A8, weights only / activations rounded, bfloat16", "int8", WEIGHTS + BF16),
         Case("FP8, weights only / activations rounded, bfloat16", "fp8", WEIGHTS + BF16)]


# ---- checkpoints ----

def checkpoint(form="", layers=None):
    """With one score a row from one matrix, which vLLM has adapters for."""
    layers = layers or (LAYERS if LAYERS < 24 else None)
    directory = SCRATCH / "-".join(filter(None, ["label", form, f"{layers}-layers" if layers else ""]))
    if not (directory / "config.json").exists():
        say(f"making a checkpoint in {directory.relative_to(common.ROOT)}")
        options = (["--form", form] if form else []) + (["--layers", layers] if layers else [])
        subprocess.run([sys.executable, HERE / "make_big.py", directory, "--label", *map(str, options)], check=True)
    return directory


def tokenizer():
    """A directory with a tokenizer that nothing is written by: vLLM wants one, also where rows are ids."""
    directory = SCRATCH / "tokenizer"
    directory.mkdir(parents=True, exist_ok=True)
    model = {"type": "WordLevel", "vocab": {"0": 0}, "unk_token": "0"}
    (directory / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model, **dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return directory


# ---- both, warm ----

def processor_seconds(pid):
    """Of a process and those below it, until now."""
    below, used = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            below.setdefault(int(fields[1]), []).append(int(path.parent.name))
            used[int(path.parent.name)] = int(fields[11]) + int(fields[12])
    ticks, left = 0, [pid]
    while left:
        one = left.pop()
        ticks += used.get(one, 0)
        left += below.get(one, [])
    return ticks / os.sysconf("SC_CLK_TCK")


class Assay:
    def __init__(self, directory, model, case, tokens=TOKENS):
        options = ["--max-batch-tokens", BATCH_TOKENS, "--max-len", tokens, "--threads", CORES, *case.options]
        self.names = [None]
        for path in common.adapters(model, case.adapters, RANK):
            options += ["--lora", f"{path.name}={path}"]
            self.names.insert(-1, path.name)
        self.broker = harness.Broker(directory, model=model, options=options)

    def __enter__(self):
        self.broker.start()
        self.client = self.broker.client(timeout=1200)
        return self

    def __exit__(self, *why):
        self.client.close()
        self.broker.__exit__(*why)

    @property
    def pid(self):
        return self.broker.process.pid

    def score(self, ids, chosen):
        rows = [{"ids": harness.ids_bytes(row), **({"adapter": self.names[k]} if self.names[k] else {})} for row, k in zip(ids, chosen)]
        return [row["score"] for row in self.client.call("score", rows=rows, timeout_ms=1200000)["rows"]]


class Vllm:
    def __init__(self, model, case, tokens=TOKENS):
        self.command = [os.environ["PEER_VLLM"], HERE / "peer_vllm.py", "--model", model, "--dtype", case.dtype, "--tokens", tokens,
                        "--batch-tokens", BATCH_TOKENS, "--rank", RANK, "--tokenizer", tokenizer()]
        if case.adapters:
            self.command += ["--lora", *common.adapters(model, case.adapters, RANK)]
        if os.environ.get("PEER_VLLM_EAGER"):
            self.command += ["--eager"]

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(list(map(str, self.command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, env={**os.environ, **ENVIRONMENT})
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.log.close()

    @property
    def pid(self):
        return self.process.pid

    def hear(self):
        """What it says, or the words of its refusal."""
        line = self.process.stdout.readline()
        found = json.loads(line) if line else {"error": f"ended with code {self.process.wait()}"}
        if "error" in found:
            self.log.seek(0)
            print(self.log.read()[-6000:], file=sys.stderr)
            raise Refused(found["error"])
        return found

    def score(self, ids, chosen):
        self.process.stdin.write(json.dumps({"ids": ids, "adapters": chosen}) + "\n")
        self.process.stdin.flush()
        return self.hear()["values"]


class Refused(Exception):
    """By vLLM, in its words."""

    def sentence(self):
        lines = [line.strip() for line in str(self).splitlines() if line.strip()] or [""]
        told = next((line for line in lines if "validation error" not in line), lines[0])
        return told.removeprefix("Value error, ").split(". ")[0].replace("|", "/")[:160]


def timed(one, ids, chosen):
    """(seconds, processor seconds, values)"""
    before, start = processor_seconds(one.pid), time.perf_counter()
    values = one.score(ids, chosen)
    return time.perf_counter() - start, processor_seconds(one.pid) - before, values


def fresh(n, tokens=TOKENS, limit=151000):
    return [[common.NUMBERS.randrange(20, limit) for _ in range(tokens)] for _ in range(n)]


# ---- v1 ----

def measure(case):
    """(facts of vLLM, pairs of times) by turns; or its refusal. The same rows for both."""
    model, pairs, apart = checkpoint(case.form), [], []
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as path, Vllm(model, case) as peer:
        facts = peer.hear()["ready"]
        with Assay(pathlib.Path(path) / "d", model, case) as own:
            for turn in range(TURNS + 1):
                rows, chosen = fresh(ROWS), [k % case.adapters if case.adapters else -1 for k in range(turn, turn + ROWS)]
                ours, theirs = (timed(one, rows, chosen) for one in (own, peer))
                apart += [abs(a - b) for a, b in zip(ours[2], theirs[2])]
                say(f"v1: {case.name}: {ours[0]:.2f} s / {theirs[0]:.2f} s, processor {ours[1]:.2f} s / {theirs[1]:.2f} s, apart {max(apart):.1e}"
                    f" of scores like {ours[2][0]:.4f}" + (" (warming)" if turn == 0 else ""))
                if turn > 0:
                    pairs.append((ours, theirs))
    return facts, pairs, max(apart)


def chosen_cases():
    """All, or those that PEER_CASES names by number."""
    numbers = os.environ.get("PEER_CASES")
    return [CASES[int(k)] for k in numbers.split(",")] if numbers else CASES


def v1():
    """Turns of ROWS rows. By wall time, and by the time that processors gave them: on a busy machine that says more."""
    for case in chosen_cases():
        what = f"{ROWS} rows of {TOKENS} tokens, {LAYERS} layers, {case.name}: tokens/s / vLLM"
        if not os.environ.get("PEER_VLLM"):
            yield Row("v1", what, MISSING, "", None)
            continue
        try:
            facts, pairs, apart = measure(case)
        except Refused as why:
            yield Row("v1", f"{what} refuses: {why.sentence()}", "", "", None)
            continue
        way = "eager" if facts["compilation"].endswith("NONE") else "compiled"
        tokens = ROWS * TOKENS
        for k, unit in ((0, "tokens/s"), (1, "tokens/s a processor")):
            ours, theirs = (tokens / statistics.median(pair[side][k] for pair in pairs) for side in (0, 1))
            ratio = statistics.median(pair[1][k] / pair[0][k] for pair in pairs)
            name = f"{what} {facts['vllm']}, {way}" if k == 0 else f"the same by processor time; scores apart by {apart:.1e} at most"
            yield Row("v1", name, f"{ours:.0f} {unit}", f"{theirs:.0f} {unit}", ratio)


# ---- v3 ----

def changed(one, rows):
    """How many rows score other bits together, in another order, than alone."""
    alone = [one.score([row], [-1])[0] for row in rows]
    order = list(range(len(rows)))
    random.Random(3).shuffle(order)
    together = dict(zip(order, one.score([rows[k] for k in order], [-1] * len(rows))))
    return sum(together[k] != alone[k] for k in order), max(abs(together[k] - alone[k]) for k in order)


def v3():
    """Rows of many lengths, alone and all at once."""
    rng = random.Random(7)
    rows = [[rng.randrange(20, 151000) for _ in range(rng.randrange(1, 300))] for _ in range(64)]
    for case in CASES[:2]:
        what = f"of {len(rows)} rows of 1 to 300 tokens, 4 layers, {case.name}: those whose score has other bits in a batch than alone (less is better)"
        if not os.environ.get("PEER_VLLM"):
            yield Row("v3", what, MISSING, "", None)
            continue
        model = checkpoint(layers=4)
        with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as path, Vllm(model, case) as peer:
            facts = peer.hear()["ready"]
            with Assay(pathlib.Path(path) / "d", model, case) as own:
                ours, theirs = changed(own, rows), changed(peer, rows)
        yield Row("v3", f"{what} / vLLM {facts['vllm']}", f"{ours[0]}, by {ours[1]:.1e}", f"{theirs[0]}, by {theirs[1]:.1e}", None)
