"""Measures and prints one table: each figure as a ratio to a ceiling or a peer taken in the same run.

    make bench                                    what needs nothing more than Assay
    ASSAY_BIN=build/cpu/bin build/venv/bin/python tests/bench/bench.py c1       one of them by itself: b4, c1, e1 (with e2), t1
    make bench PEER_PYTHON=/path/to/python        also transformers float32, with a Python that has PyTorch

b1  GEMM rate / peak rate of fused multiply-adds
b3  tokens/s of the forward, 0.5B shape, 512-token rows / transformers float32 on a model of the same shape
b4  tokens/s of the forward with --quant int8, 0.5B shape, 512-token rows / the peak of float32's fused multiply-adds over what its layers'
    products need a token: both by the time that threads had a processor, in turns
c1  durable rows/s through the socket, 512-token rows, 32 requests of 64 rows under way / the disk alone, same commits; beanstalkd and
    Redis Streams where they are installed (apt-get install beanstalkd redis-server), the same rows in the same batches from the same C client
e1  rows claimed and finished /s with a million rows queued (DEPTH=10000000: ten million, 3 GB, minutes) / with a thousand; the same in
    processor time; a page of results at the end of a million / at the beginning
e2  from opening the database of a broker that was killed to the first batch in hand, a million rows queued / a thousand
t1  text of a thread through the tokenizer / the tokenizers package's encode_batch, one thread, same text in turns
d2  tokens/s from submit to last result through broker, shared memory and worker / the forward in process
"""
import datetime
import json
import os
import pathlib
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE.parent / "text")]
import cases  # noqa: E402
import harness  # noqa: E402
import vocabulary  # noqa: E402

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


def b4(rounds=3):
    c = json.loads((BIG / "config.json").read_text())
    hidden, kv = c["hidden_size"], c["num_key_value_heads"] * c["hidden_size"] // c["num_attention_heads"]
    flops = 2 * c["num_hidden_layers"] * hidden * (2 * hidden + 2 * kv + 3 * c["intermediate_size"])
    found = []
    for _ in range(rounds):
        peak = lines(TOOLS / "bench_gemm", 0, "auto", "peak")[0]["cpu_peak"]
        rate = lines(TOOLS / "bench_forward", BIG, ROWS, TOKENS, BATCH_TOKENS, 0, "int8")[0]["cpu_tokens_per_s"]
        found.append((rate, peak * 1e9 / flops))
    rate, ceiling = map(statistics.median, zip(*found))
    yield ("b4", "tokens/s, int8 / float32's fused multiply-adds", f"{rate:.1f} tokens/s", f"{ceiling:.1f} tokens/s", rate / ceiling)


class Server:
    """A queue to compare with: a process of its own on a unix socket in a temporary directory, every acknowledgement synced."""
    COMMANDS = {
        "beanstalkd": lambda d: ["beanstalkd", "-l", f"unix:{d}/socket", "-b", d, "-f0"],
        "redis": lambda d: ["redis-server", "--port", "0", "--unixsocket", f"{d}/socket", "--dir", d, "--save", "", "--appendonly", "yes",
                            "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", "--daemonize", "no"],
    }

    def __init__(self, name, directory):
        self.endpoint, self.command = f"{directory}/socket", self.COMMANDS[name](str(directory))

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not os.path.exists(self.endpoint):
            assert self.process.poll() is None and time.monotonic() < deadline, self.command
            time.sleep(0.02)
        time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def queue(name, directory):
    if name == "assay":
        return harness.Broker(directory / "d", options=["--max-batch-tokens", 512])
    return Server(name, directory)


def durable_rows(name, connections, window, seconds=3):
    """Acknowledged rows/s of a queue made for this, with 32 batches of 64 rows under way."""
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        with queue(name, pathlib.Path(directory)) as server:
            return lines(TOOLS / "bench_submit", name, server.endpoint, connections, window, seconds)[0]["rows_per_s"]


def disk_alone():
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        text = subprocess.run([TOOLS / "bench_store", directory, "2"], capture_output=True, text=True, check=True).stdout
    return float(re.search(r"disk alone\s+(\d+) rows/s", text).group(1))


def c1(rounds=3):
    """In turns, since a disk has moods; the middle of each, of the faster of the two ways: all from one connection, or one each of 32."""
    names, disk, rates = ["assay"], [], {}
    for name, package in (("beanstalkd", "beanstalkd"), ("redis", "redis-server")):
        if shutil.which(package):
            names.append(name)
        else:
            print(f"      c1: no {package}, the peer was not measured (apt-get install {package})", file=sys.stderr)
    for _ in range(rounds):
        disk.append(disk_alone())
        for ways in ((1, 32), (32, 1)):
            for name in names:
                rates.setdefault((name, ways), []).append(durable_rows(name, *ways))
    for (name, ways), got in rates.items():
        print(f"      c1 {name:10s} {ways[0]:2d} connections: {', '.join(f'{r:,}' for r in got)} rows/s", file=sys.stderr)
    best = {name: max(statistics.median(got) for (other, _), got in rates.items() if other == name) for name in names}
    alone = {"disk alone": statistics.median(disk), "beanstalkd -f0": best.get("beanstalkd"), "Redis Streams, appendfsync always": best.get("redis")}
    for peer, rate in alone.items():
        if rate:
            yield "c1", f"durable rows/s through the socket / {peer}", f"{best['assay']:,.0f} rows/s", f"{rate:,.0f} rows/s", best["assay"] / rate


def e1():
    """And e2: the rows of both come from the same databases."""
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        rows = lines(TOOLS / "bench_depth", directory, os.environ.get("DEPTH", "1000000"))
    for row in rows:
        print(f"      e1 {row['depth']:9,} queued, {row['bytes'] / 1e6:,.0f} MB: {row['rows_per_s']:,} rows/s, {row['cpu_us']:.1f} us of processor a "
              f"row, status {row['status_us']:.0f} us, restart {row['restart_ms']:.0f} ms", file=sys.stderr)
    few, many = rows[0], rows[-1]
    depth = f"{many['depth']:,} / {few['depth']:,} rows queued"
    yield "e1", f"claim and finish, {depth}", f"{many['rows_per_s']:,} rows/s", f"{few['rows_per_s']:,} rows/s", many["ratio"]
    yield "e1", "the same in processor time a row", f"{many['cpu_us']:.1f} us", f"{few['cpu_us']:.1f} us", many["cpu_ratio"]
    yield ("e1", "1,000 results from the end of a job / from its beginning", f"{many['last_page_ms']:.2f} ms", f"{many['first_page_ms']:.2f} ms",
           many["first_page_ms"] / many["last_page_ms"])
    yield ("e2", f"killed broker's database to first batch, {depth}", f"{many['restart_ms']:.0f} ms", f"{few['restart_ms']:.0f} ms",
           few["restart_ms"] / many["restart_ms"])


PEER_TOKENIZER = """
import json, sys, time, tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
texts = [json.loads(line)["text"] for line in open(sys.argv[2])]
tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts))
start, rounds = time.perf_counter(), 0
while time.perf_counter() - start < float(sys.argv[3]):
    tokenizer.encode_batch(texts)
    rounds += 1
took = time.perf_counter() - start
print(json.dumps({"tokens": tokens, "mb_per_s": rounds * sum(len(t.encode()) for t in texts) / took / 1e6}))
"""


def texts_to_tokenize():
    """Three kinds, 2 MB each in pieces of about 2,000 characters: this machine's documentation and sources; Chinese; every script."""
    roots = [ROOT, pathlib.Path("/usr/share/doc"), pathlib.Path("/usr/share/perl5"), pathlib.Path("/usr/include")]
    files = sorted(f for root in roots if root.is_dir() for f in root.rglob("*") if f.is_file() and "build" not in f.parts and ".git" not in f.parts)
    rng, real = random.Random(7), ""
    rng.shuffle(files)
    for file in files:
        if len(real) > 2_000_000:
            break
        try:
            real += file.read_bytes()[:50_000].decode()
        except (UnicodeDecodeError, OSError):
            continue
    common = [chr(0x4E00 + int(rng.expovariate(1 / 1500)) % 0x5200) for _ in range(700_000)]
    chinese = "".join(c if rng.random() > 0.08 else "，" for c in common)
    mixed = " ".join(cases.strings(7, 40_000))
    for name, text in (("documentation and sources", real), ("Chinese", chinese), ("every script, hard cases", mixed)):
        yield name, [text[k:k + 2000] for k in range(0, min(len(text), 2_000_000), 2000)]


def t1():
    model = vocabulary.directory("qwen")
    for name, texts in texts_to_tokenize():
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            f.writelines(json.dumps({"text": text}) + "\n" for text in texts)
            f.flush()
            one_thread = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
            ours, theirs = [], []
            for _ in range(3):
                ours += lines(TOOLS / "bench_tokenizer", model, f.name, 2)
                done = subprocess.run([sys.executable, "-c", PEER_TOKENIZER, model, f.name, "2"], env=one_thread, capture_output=True,
                                      text=True, check=True)
                theirs.append(json.loads(done.stdout))
        assert ours[0]["tokens"] == theirs[0]["tokens"]
        a, b = (statistics.median(r["mb_per_s"] for r in runs) for runs in (ours, theirs))
        yield "t1", f"tokenizer, {name} / tokenizers", f"{a:.1f} MB/s", f"{b:.1f} MB/s", a / b


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
    alone = {"b4": b4, "c1": c1, "e1": e1, "e2": e1, "t1": t1}
    if sys.argv[1:] and sys.argv[1] in alone:
        return show(alone[sys.argv[1]]())
    if not (BIG / "model.safetensors").exists():
        print("making a 0.5B-shaped checkpoint in build/bench (1 GB)", file=sys.stderr)
        subprocess.run([sys.executable, HERE / "make_big.py", BIG], check=True)
    table = list(b1())
    ours = forward()
    table += list(b3(ours)) + list(b4()) + list(c1()) + list(e1()) + list(t1())
    rate = through_broker()
    again = forward()
    table.append(("d2", "submit to last result / forward in process", f"{rate:.1f} tokens/s",
                  f"{(ours + again) / 2:.1f} tokens/s", rate / ((ours + again) / 2)))
    show(table)


def show(table):
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}\n")
    print("| id | what | Assay | ceiling or peer | ratio |\n|---|---|---|---|---|")
    for name, what, got, of, ratio in table:
        print(f"| {name} | {what} | {got} | {of} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
