"""t1: the tokenizer against the tokenizers package."""
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

import common
from common import Row
import cases
import vocabulary

PEER_TOKENIZER = """
import json, sys, time, tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
texts = [json.loads(line)["text"] for line in open(sys.argv[2])]
tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False))
start, rounds = time.perf_counter(), 0
while time.perf_counter() - start < float(sys.argv[3]):
    tokenizer.encode_batch(texts, add_special_tokens=False)
    rounds += 1
took = time.perf_counter() - start
print(json.dumps({"tokens": tokens, "mb_per_s": rounds * sum(len(t.encode()) for t in texts) / took / 1e6}))
"""


def texts_to_tokenize():
    """Three kinds, 2 MB each in pieces of about 2,000 characters: this machine's documentation and sources; Chinese; every script."""
    roots = [common.ROOT, pathlib.Path("/usr/share/doc"), pathlib.Path("/usr/share/perl5"), pathlib.Path("/usr/include")]
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
    usual = [chr(0x4E00 + int(rng.expovariate(1 / 1500)) % 0x5200) for _ in range(700_000)]
    chinese = "".join(c if rng.random() > 0.08 else "，" for c in usual)
    mixed = " ".join(cases.strings(7, 40_000))
    for name, text in (("documentation and sources", real), ("Chinese", chinese), ("every script, hard cases", mixed)):
        yield name, [text[k:k + 2000] for k in range(0, min(len(text), 2_000_000), 2000)]


def measure(model, texts):
    """Tokens and rates of ours and theirs, in turns."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        f.flush()
        one_thread = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        ours, theirs = [], []
        for _ in range(3):
            ours += common.lines(common.TOOLS / "bench_tokenizer", model, f.name, 2)
            done = subprocess.run([sys.executable, "-c", PEER_TOKENIZER, model, f.name, "2"], env=one_thread, capture_output=True,
                                  text=True, check=True)
            theirs.append(json.loads(done.stdout))
    assert ours[0]["tokens"] == theirs[0]["tokens"]
    return [statistics.median(r["mb_per_s"] for r in runs) for runs in (ours, theirs)]


# A pattern by hand, one by PCRE2, words of characters.
KINDS = {"qwen": "tokenizer", "o200k": "tokenizer with o200k's pattern", "llama2": "tokenizer of Llama 2's kind"}


def t1():
    for form, kind in KINDS.items():
        for name, texts in texts_to_tokenize():
            a, b = measure(vocabulary.directory(form), texts)
            yield Row("t1", f"{kind}, {name} / tokenizers, one thread each", f"{a:.1f} MB/s", f"{b:.1f} MB/s", a / b)
