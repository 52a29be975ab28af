"""Scores through the whole service against the oracle's, and the bits of a row whatever its batch, its ranks and its ISA."""
import json
import random
import subprocess

import pytest
from harness import BIN, DEMO, MODELS, Broker, Refused, ids_bytes, random_key, vectors, wait_until

VECTORS = vectors()
# One checkpoint of each kind goes through the service; every other one is compared in tests/unit/test_model.c.
WORDS = ("reward", "process", "token", "tp", "llama", "qwen3", "mistral", "lm-", "prm", "openrlhf", "value-head", "inform")
KINDS = [name for name in VECTORS if any(word in name for word in WORDS)]


def values(row):
    """Whatever form the scores of a result have, as a flat list."""
    found = row.get("score", row.get("scores", row.get("steps")))
    if not isinstance(found, list):
        return [found]
    return [v for item in found for v in (item if isinstance(item, list) else [item])]


def request_row(row):
    out = {"ids": ids_bytes(row["ids"])}
    if "pool" in row:
        out["pool"] = row["pool"]
    return out



def close(found, expected):
    tolerance = 1e-4
    return len(found) == len(expected) and all(abs(a - b) <= tolerance for a, b in zip(found, expected))


def score_all(directory, name, options=()):
    rows = [request_row(row) for row in VECTORS[name]["rows"]]
    if "head" in VECTORS[name]:
        options = [*options, "--head", VECTORS[name]["head"]]
    with Broker(directory, model=MODELS / VECTORS[name]["model"], options=options) as broker, broker.client() as client:
        return client.call("score", rows=rows, timeout_ms=60000)["rows"]


@pytest.mark.parametrize("name", KINDS)
def test_scores_agree_with_the_oracle(directory, name):
    for found, row in zip(score_all(directory, name), VECTORS[name]["rows"]):
        assert found["error"] is None, found
        assert close(values(found), row["values"]), (name, len(row["ids"]), row.get("pool"), values(found)[:4],
                                                    row["values"][:4])


TP = [name for name in VECTORS if VECTORS[name]["tp"] == [1, 2, 4]][:2]


@pytest.mark.parametrize("name", TP)
@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_agree(directory, name, tp):
    alone = score_all(directory / "a", name)
    shared = score_all(directory / "b", name, ["--tp", tp])
    again = score_all(directory / "c", name, ["--tp", tp])
    for one, two, three in zip(alone, shared, again):
        assert values(two) == values(three)
        for a, b in zip(values(one), values(two)):
            assert abs(a - b) <= 1e-5 * max(1.0, abs(a))


def test_same_bits_in_any_batch(directory):
    """Rows alone, all together, shuffled in other batch sizes, on the portable path: one answer."""
    rng = random.Random(3)
    rows = [{"ids": ids_bytes([rng.randrange(500) for _ in range(rng.randint(1, 120))])} for _ in range(60)]
    seen = []
    for options in ([], ["--max-batch-tokens", 256, "--threads", 1], ["--isa", "portable"]):
        with Broker(directory / f"d{len(seen)}", options=options) as broker, broker.client() as client:
            order = list(range(len(rows)))
            rng.shuffle(order)
            found = client.call("score", rows=[rows[k] for k in order], timeout_ms=60000)["rows"]
            scores = dict(zip(order, (row["score"] for row in found)))
            for k in range(0, 60, 7):
                alone = client.call("score", rows=[rows[k]])["rows"][0]["score"]
                assert alone == scores[k]
            key = random_key()
            for n, k in enumerate(order):
                client.submit(key, [rows[k]], chunk=n, seal=n == len(order) - 1)
            for row in client.results(key):
                assert row["score"] == scores[order[row["i"]]]
            seen.append(scores)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("mode,says", [(["--quant", "int8"], "dtype=f32 quant=int8"), (["--dtype", "bf16"], "dtype=bf16 quant=none")],
                         ids=["int8", "bf16"])
def test_scores_are_near_and_of_a_mode_of_their_own(directory, mode, says):
    """Without a GPU: near float32's scores, the same on any kernels, and a job of the other mode waits for consent."""
    rows, key = [{"ids": ids_bytes([(7 * k + j * j) % 500 for j in range(1 + 3 * k)])} for k in range(30)], random_key()
    with Broker(directory / "d") as broker, broker.client() as client:
        exact = [row["score"] for row in client.call("score", rows=rows, timeout_ms=60000)["rows"]]
        client.submit(key, rows[:3], seal=False)
        wait_until(lambda: client.call("status", job=key)["done"] == 3)
    found = []
    for options in (["--threads", 2], ["--isa", "portable", "--max-batch-tokens", 128]):
        with Broker(directory / "d", options=[*mode, *options]) as broker, broker.client() as client:
            assert client.call("hello")["mode"] == f"device=cpu arithmetic=4 {says} tp=1 pp=1"
            found.append([row["score"] for row in client.call("score", rows=rows, timeout_ms=60000)["rows"]])
            with pytest.raises(Refused, match="wrong_state.*held"):
                client.submit(key, rows[3:6], chunk=1)
            status = client.call("status", job=key)
            assert status["state"] == "paused" and "dtype=f32 quant=none" in status["reason"], status
    assert found[0] == found[1]
    spread = max(exact) - min(exact)
    errors = [abs(a - b) for a, b in zip(exact, found[0])]
    assert 0 < max(errors) < 0.1 * spread, (max(errors), spread)


def test_int8_takes_odd_sizes_and_describing_quantizes_nothing():
    for model in (MODELS / "odd-sizes", DEMO):
        done = subprocess.run([BIN / "assay-worker", "--describe", "--quant", "int8", "--model", model], capture_output=True,
                              text=True, timeout=20, check=True)
        assert " quant=int8 " in json.loads(done.stdout)["mode"]
    done = subprocess.run([BIN / "assay-worker", "--describe", "--quant", "fp8", "--model", DEMO], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "--quant fp8: the CPU does not have it; expected none or int8" in done.stderr


def test_of_float32_and_bfloat16(directory):
    """--dtype f32 is what auto is; what does not go together is refused by name, before anything starts."""
    def describe(*options):
        return subprocess.run([BIN / "assay-worker", "--describe", "--model", DEMO, *options], capture_output=True, text=True, timeout=20)
    for option, says in (("auto", "dtype=f32"), ("f32", "dtype=f32"), ("bf16", "dtype=bf16")):
        assert f" {says} quant=none " in json.loads(describe("--dtype", option).stdout)["mode"]
    assert " dtype=f32 quant=int8 " in json.loads(describe("--dtype", "f32", "--quant", "int8").stdout)["mode"]
    for options, code, words in ((["--dtype", "f16"], 64, "--dtype: expected auto, f32 or bf16, found 'f16'"),
                                 (["--dtype", "f32 bf16"], 64, "--dtype: expected auto, f32 or bf16, found 'f32 bf16'"),
                                 (["--dtype", "bf16", "--quant", "int8"], 78, "--dtype bf16 with --quant int8: expected one of them")):
        done = subprocess.run([BIN / "assayd", "--model", DEMO, "--data", directory / "d", *options], capture_output=True, text=True, timeout=30)
        assert done.returncode == code and words in done.stderr, done.stderr
        assert not (directory / "d/assay.db").exists()
    rows = directory / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input_ids": [3 + k, 5, 7]}) + "\n" for k in range(8)))
    found = {}
    for option in ("auto", "f32", "bf16"):
        out = directory / f"{option}.jsonl"
        subprocess.run([BIN / "assay", "score", rows, "-o", out, "--model", DEMO, "--dtype", option], check=True, capture_output=True, timeout=60)
        found[option] = [json.loads(line)["score"] for line in out.read_text().splitlines()]
    assert found["auto"] == found["f32"] != found["bf16"]
