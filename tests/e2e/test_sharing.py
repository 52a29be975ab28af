"""Rows that begin alike share it: fewer tokens are computed, and not one bit of one result is different."""
import os
import random
import signal

import pytest
from harness import BIN, DEMO, FAULTY_WORKER, MODELS, Broker, ids_bytes, random_key, wait_until

POOLS = [{"type": "LAST"}, {"type": "ALL"}, {"type": "STEP", "step_token": 3}, {"type": "MEAN"}, {"type": "CLS"},
         {"type": "POSITIONS", "positions": [39, 0, 45, 45]}, {"type": "ALL", "activation": "sigmoid"},
         {"type": "MEAN", "activation": "sigmoid"}, {"type": "LAST", "activation": "sigmoid"}]
OF_CLASSES = [{"type": "LAST", "activation": "softmax"}, {"type": "ALL", "activation": "softmax"}]  # of two labels or more


def rows_of(prompts=8, responses=6, pools=POOLS, step_token=3, seed=1):
    """Responses to prompts of 40 to 150 tokens, each prompt's pooled in every way, a step in prompt and response."""
    rng, rows = random.Random(seed), []
    for p in range(prompts):
        prompt = [rng.randrange(20, 250) for _ in range(40 + 15 * (p % 8))]
        prompt[10] = step_token
        for r in range(responses):
            response = [rng.randrange(20, 250) for _ in range(rng.randint(6, 40))] + [step_token]
            rows.append({"ids": ids_bytes(prompt + response), "pool": pools[(p * responses + r) % len(pools)]})
    return rows


def run(directory, name, rows, options=(), **how):
    """Results by row, and the tokens that were computed."""
    with Broker(directory / name, options=options, **how) as broker, broker.client() as client:
        client.submit("job", rows)
        found = sorted(client.results("job", timeout=120), key=lambda row: row["i"])
        return found, broker.sql("select sum(tokens), count(*) from batches where ok")[0]


@pytest.mark.parametrize("model,tp,dtype", [("process", 1, "f32"), ("seqcls-3-labels", 1, "f32"), ("window", 1, "f32"), ("seqcls", 2, "f32"),
                                            ("tp-12-4", 4, "f32"), ("window", 1, "bf16"), ("tp-12-4", 2, "bf16")])
def test_the_same_bytes_for_every_pooling(directory, model, tp, dtype):
    pools = POOLS + OF_CLASSES if model in ("process", "seqcls-3-labels") else POOLS
    rows, options = rows_of(pools=pools), ["--tp", tp, "--max-batch-tokens", 1024, "--dtype", dtype]
    together, (tokens, _) = run(directory, "together", rows, options, model=MODELS / model)
    apart, (all_tokens, _) = run(directory, "apart", rows, [*options, "--no-prefix-sharing"], model=MODELS / model)
    assert together == apart
    assert all(row["error"] is None for row in together)
    assert all_tokens == sum(row["n_tokens"] for row in apart)
    assert tokens < 0.6 * all_tokens, (tokens, all_tokens)


def test_text_and_rows_of_several_responses(directory):
    """The chat template's words are shared too; one row of eight responses is as eight rows."""
    prompt = "Add these numbers, and say how you did it: " + ", ".join(map(str, range(12)))
    responses = [f"The sum is {k}." for k in range(60, 68)]
    rows = [{"prompt": prompt, "responses": responses}] + [{"prompt": prompt, "response": text} for text in responses]
    together, (tokens, _) = run(directory, "together", rows, model=MODELS / "demo-reward")
    apart, (all_tokens, _) = run(directory, "apart", rows, ["--no-prefix-sharing"], model=MODELS / "demo-reward")
    assert together == apart and all(row["error"] is None for row in together)
    assert [row["score"] for row in together[1:]] == together[0]["scores"]
    assert tokens < 0.5 * all_tokens, (tokens, all_tokens)


def test_a_long_prompt_is_not_computed_for_each_row(directory):
    """It is longer than the budget, and the rows still come together."""
    rng = random.Random(3)
    prompt = [rng.randrange(20, 250) for _ in range(400)]
    rows = [{"ids": ids_bytes(prompt + [20 + k, 21])} for k in range(40)]
    found, (tokens, batches) = run(directory, "d", rows, ["--max-batch-tokens", 128], model=MODELS / "seqcls")
    assert all(row["error"] is None and row["n_tokens"] == 402 for row in found)
    assert (tokens, batches) == (400 + 40 * 2, 1)


def test_a_worker_that_does_not_share_is_not_asked_to(directory):
    """It says so when it describes the model."""
    worker = directory / "worker"
    worker.write_text(f'#!/bin/sh\n[ "$1" != --describe ] && exec {BIN}/assay-worker "$@"\n'
                      f"{BIN}/assay-worker \"$@\" | sed 's/\"shares_prefixes\":true/\"shares_prefixes\":false/'\n")
    worker.chmod(0o755)
    rows = rows_of(prompts=1)
    found, (tokens, _) = run(directory, "d", rows, model=MODELS / "seqcls", worker=worker)
    assert all(row["error"] is None for row in found) and tokens == sum(row["n_tokens"] for row in found)
    _, (shared, _) = run(directory, "other", rows, model=MODELS / "seqcls", worker=BIN / "assay-worker")
    assert shared < tokens


def test_ranks_are_killed_meanwhile(directory):
    rows = rows_of(prompts=60, responses=6)
    options = ["--tp", 2, "--max-batch-tokens", 512]
    calm, _ = run(directory, "calm", rows, [*options, "--no-prefix-sharing"], model=MODELS / "seqcls")
    with Broker(directory / "d", model=MODELS / "seqcls", options=options) as broker, broker.client() as client:
        key = random_key()
        wait_until(lambda: len(broker.worker_pids()) == 2)
        client.submit(key, rows)
        for turn in range(4):
            wait_until(lambda: client.call("status", job=key)["done"] > turn * 60, 60)
            before = wait_until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids())
            os.kill(before[turn % 2], signal.SIGKILL)
            wait_until(lambda: not set(before) & set(broker.worker_pids()), 20)
        assert sorted(client.results(key, timeout=120), key=lambda row: row["i"]) == calm
        assert broker.sql("select count(*) from batches where not ok")[0][0] > 0


def test_what_is_wrong_with_one_row_stays_there(directory):
    """A token that kills, or makes numbers that are none, behind the shared ones, also in the row that has them for all."""
    kills, not_a_number, prompt = 7, 9, list(range(20, 84))
    for k, bad in ((0, not_a_number), (3, not_a_number), (0, kills), (3, kills)):
        rows = [{"ids": prompt + [30 + r, bad if r == k else 20, 22]} for r in range(6)]
        found, _ = run(directory, f"{bad}-{k}", rows, model=DEMO, worker=FAULTY_WORKER)
        codes = [row["error"] and row["error"]["code"] for row in found]
        assert codes == [None if r != k else "non_finite" if bad == not_a_number else "worker_killed" for r in range(6)], codes
