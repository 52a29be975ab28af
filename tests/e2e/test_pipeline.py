"""Pipeline parallelism through the whole service: the bits of one stage whatever the number of stages and ranks, a job and a score
cache that go on under another number, ranks killed at any time, and what is refused by name."""
import json
import os
import random
import signal
import subprocess
import time

import pytest
from harness import BIN, DEMO, MODELS, Broker, ids_bytes, random_key, vectors, wait_until

PROCESS, REWARD = MODELS / "demo-process", MODELS / "demo-reward"  # of 4 and 6 layers
VECTORS = vectors()
SMALL = ["--max-batch-tokens", 192, "--no-dedupe"]  # many batches, so that every stage has one


def rows_of(n=60, seed=1, longest=120, vocabulary=200):
    rng = random.Random(seed)
    prefix = [rng.randrange(vocabulary) for _ in range(48)]
    return [{"ids": ids_bytes([*(prefix if rng.random() < 0.4 else []), *(rng.randrange(vocabulary) for _ in range(rng.randint(1, longest)))]),
             "pool": {"type": "LAST"}} for _ in range(n)]


def scores_of(reply):
    assert all(row["error"] is None for row in reply), reply
    return [[row.get(field) for field in ("score", "scores", "steps")] for row in sorted(reply, key=lambda row: row["i"])]


def score_all(directory, model, rows, options):
    with Broker(directory, model=model, options=options) as broker, broker.client() as client:
        client.submit("job", rows, seal=True)
        found = scores_of(client.results("job", timeout=120))
        return found, client.call("hello")["mode"], client.call("info")["workers"]


@pytest.mark.parametrize("model,options", [
    (PROCESS, ["--pp", 2]), (PROCESS, ["--pp", 4]), (REWARD, ["--pp", 4]), (REWARD, ["--pp", 5, "--replicas", 2]),
    (REWARD, ["--pp", 2, "--dtype", "bf16"]), (PROCESS, ["--pp", 3, "--quant", "int8"]),
    (REWARD, ["--pp", 3, "--kv-cache", "4M"])],
    ids=lambda value: value.name if hasattr(value, "name") else "-".join(map(str, value)))
def test_same_bits_as_one_stage(directory, model, options):
    """Also where layers do not divide evenly: 6 on 4 stages are 1, 2, 2, 1."""
    rows, pool = rows_of(), {"type": "ALL"}
    rows[::7] = [{**row, "pool": pool} for row in rows[::7]]
    one, mode, workers = score_all(directory / "one", model, rows, [*SMALL, *options[2:]])
    several, same_mode, more = score_all(directory / "several", model, rows, [*SMALL, *options])
    assert several == one and same_mode == mode and len(more) == options[1] * len(workers)
    busy = {w["group"] for w in more if w["tokens"] > 0}  # a second copy may be ready only when all is done
    assert busy and all(w["busy_us"] > 0 and w["tokens"] > 0 for w in more if w["group"] in busy), more


@pytest.mark.parametrize("name", [n for n in VECTORS if VECTORS[n]["tp"] == [1, 2, 4]][:2])
def test_with_tensor_parallelism(directory, name):
    """Two stages of two ranks have the bits of one stage of two ranks."""
    model, rows = MODELS / VECTORS[name]["model"], rows_of(40, 3)
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    one, mode, _ = score_all(directory / "one", model, rows, [*SMALL, "--tp", 2])
    several, same_mode, workers = score_all(directory / "several", model, rows, [*SMALL, "--tp", 2, "--pp", layers])
    assert several == one and same_mode == mode and [w["rank"] for w in workers] == list(range(2 * layers))


def test_adapters(directory):
    loras = [f"{name}={MODELS / 'lora' / f'reward-{name}'}" for name in ("all", "half")]
    options = [*SMALL, *(word for lora in loras for word in ("--lora", lora))]
    rows = [{**row, **({"adapter": ("all", "half")[k % 2]} if k % 3 else {})} for k, row in enumerate(rows_of(30))]
    one, _, _ = score_all(directory / "one", MODELS / "reward", rows, options)
    several, _, _ = score_all(directory / "several", MODELS / "reward", rows, [*options, "--pp", 2])
    assert several == one


def test_a_job_and_the_score_cache_go_on_under_another_number(directory):
    rows, key = rows_of(40), random_key()
    with Broker(directory / "d", model=PROCESS, options=["--score-cache", "8M"]) as broker, broker.client() as client:
        client.submit(key, rows[:20], seal=False)
        wait_until(lambda: client.call("status", job=key)["done"] == 20)
        time.sleep(0.2)
    with Broker(directory / "d", model=PROCESS, options=["--score-cache", "8M", "--pp", 2]) as broker, broker.client() as client:
        client.submit(key, rows[20:], chunk=1, seal=True)
        found = scores_of(client.results(key))
        again = client.submit("again", rows[:20], seal=True) and client.results("again")
        assert scores_of(again) == found[:20]
        assert sum(w["tokens"] for w in client.call("info")["workers"][:1]) <= sum(len(r["ids"]) // 4 for r in rows[20:])
    one, _, _ = score_all(directory / "one", PROCESS, rows, SMALL)
    assert found == one


@pytest.mark.parametrize("model,options", [(REWARD, ["--pp", 3]), (MODELS / "tp-12-4", ["--pp", 2, "--tp", 2])], ids=["pp3", "pp2-tp2"])
def test_any_rank_may_be_killed_at_any_time(directory, model, options):
    """Nothing is lost, no row is blamed for it, and the bits stay."""
    rng, rows = random.Random(5), rows_of(300, 7)
    one, _, _ = score_all(directory / "one", model, rows, [*SMALL, *options[2:]])
    with Broker(directory / "d", model=model, options=[*SMALL, *options]) as broker, broker.client() as client:
        client.submit("job", rows, seal=True)
        kills = done = 0
        while client.call("status", job="job")["done"] < len(rows) and kills < 12:
            time.sleep(rng.random() * 0.25)
            if kills % 3 == 0:  # a row that is alone in three deaths is blamed, and six starts in a row that are killed are given up
                done = wait_until(lambda: (n := client.call("status", job="job")["done"]) > done and n, 60)
            pids = broker.worker_pids()
            if pids:
                victim = rng.choice(pids)
                try:
                    os.kill(victim, rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGABRT]))
                    kills += 1
                except ProcessLookupError:
                    pass
        found = scores_of(client.results("job", timeout=120))
        assert kills >= 2 and client.call("info")["workers"][0]["restarts"] >= 1
    assert found == one


def test_a_stopped_rank_is_noticed(directory):
    rows = rows_of(100)
    with Broker(directory / "d", model=PROCESS, options=[*SMALL, "--pp", 2, "--hang-ms", 500]) as broker, broker.client() as client:
        pids = wait_until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids())
        client.call("score", rows=rows[:1])
        os.kill(pids[1], signal.SIGSTOP)
        assert scores_of(client.call("score", rows=rows, timeout_ms=60000)["rows"])
        assert pids[1] not in broker.worker_pids()


@pytest.mark.parametrize("options,words", [
    (["--model", PROCESS, "--pp", "5"], ["pp 5 does not fit", "at most num_hidden_layers (4)"]),
    (["--model", PROCESS, "--pp", "0"], ["--pp", "1", "found '0'"]),
    (["--model", PROCESS, "--pp", "8", "--tp", "4"], ["--tp 4 --pp 8: expected at most 16 ranks, found 32"])])
def test_what_does_not_fit_is_refused_by_name(directory, options, words):
    done = subprocess.run([BIN / "assayd", "--data", directory / "d", *map(str, options)], capture_output=True, text=True, timeout=60)
    assert done.returncode in (64, 78) and all(word in done.stderr for word in words), done


def test_the_command_line_has_it_too(directory):
    rows = directory / "rows.jsonl"
    rows.write_text("".join(f'{{"ids": [{k}, 2, 3]}}\n' for k in range(1, 9)))
    found = []
    for more in ([], ["--pp", "3"]):
        done = subprocess.run([BIN / "assay", "score", "--model", DEMO, "--device", "cpu", *more, rows], capture_output=True, text=True, timeout=120,
                              env={**os.environ, "XDG_CACHE_HOME": str(directory / f"c{len(more)}"), "XDG_STATE_HOME": str(directory / f"s{len(more)}")})
        assert done.returncode == 0, done
        found.append(done.stdout)
    assert found[0] == found[1] and found[0].count("\n") == 8
