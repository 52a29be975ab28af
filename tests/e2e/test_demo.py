"""The demo models: ids and values as the reference has them, right above wrong, and what `make demo` prints."""
import json
import os
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker

GOLDEN = json.loads((ROOT / "tests/vectors/text/demo.json").read_text())


def lines(name):
    return [json.loads(line) for line in open(MODELS / f"{name}.jsonl")]


@pytest.fixture(scope="module", params=["demo-reward", "demo-process"])
def scored(request, tmp_path_factory):
    """(name, lines, results)"""
    with Broker(tmp_path_factory.mktemp("d"), model=MODELS / request.param) as broker, broker.client() as client:
        yield request.param, lines(request.param), client.call("score", rows=lines(request.param))["rows"]


def values(result):
    kinds = ("scores", "steps")
    return next((result[k] for k in kinds if k in result), None) or [result[k] for k in ("chosen", "rejected", "score") if k in result]


def test_values_are_the_references(scored):
    name, rows, results = scored
    for row, result, golden in zip(rows, results, GOLDEN[name], strict=True):
        assert golden["id"] == row["id"] and result["error"] is None
        assert result["n_tokens"] == sum(map(len, golden["ids"]))
        flat = [v for sequence in golden["values"] for v in sequence]
        assert values(result) == pytest.approx(flat, abs=2e-4, rel=2e-4), row["id"]


def is_right(question, answer):
    """By reckoning, not by the model: the last number of the answer is what the question comes to."""
    digits = "".join(c if c in "0123456789+-" else " " for c in question).split()
    return eval(" ".join(digits)) == int(answer.rstrip(".").split()[-1])  # noqa: S307 digits and signs alone


def test_right_above_wrong(scored):
    name, rows, results = scored
    for row, result in zip(rows, results):
        if name == "demo-process":
            truth = RIGHT_STEPS[row["id"]]
            assert [p > 0.5 for p in result["steps"]] == truth, (row["id"], result["steps"])
        elif "responses" in row:
            right = [k for k, a in enumerate(row["responses"]) if is_right(row["prompt"], a)]
            assert [result["best"]] == right, (row["id"], result["scores"])
        elif "chosen" in row:
            assert result["margin"] > 0
    if name == "demo-reward":
        alone = {row["id"]: result["score"] for row, result in zip(rows, results) if "score" in result}
        assert alone["right, alone"] > 0 > alone["wrong, alone"]


RIGHT_STEPS = {  # a step is right when it follows from the one before it
    "all right": [True, True, True], "the first step is wrong, the rest follows from it": [False, True, True],
    "the second step is wrong": [True, False, True, True], "the answer is wrong": [True, True, False],
    "all right, longer": [True] * 5, "the last sum is wrong": [True, True, True, False, True],
}


def test_the_demo_itself():
    done = subprocess.run([ROOT / ".ci/demo"], capture_output=True, text=True, timeout=120 * PATIENCE, env={**os.environ, "BIN": str(BIN)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<- best") == 5 and "The answer is 11." in done.stdout
    best = [line for line in done.stdout.splitlines() if "<- best" in line]
    assert any("16 - 6" not in line and "17 - 6 = 11" in line for line in best), best
