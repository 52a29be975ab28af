"""Statistics of the responses to one prompt and of the steps of a solution: in replies, in lines and in SQL, against Python's."""
import json
import math
import statistics
import subprocess

import pytest
from harness import BIN, MODELS, Broker, random_key
from test_models import changed_model

PROMPT = "What is 37 + 48 - 12?"
ANSWERS = ["73", "74", "37 + 48 = 85\n85 - 12 = 73\nThe answer is 73.", "73", "I do not know."]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("t"), model=MODELS / "demo-reward") as b:
        yield b


@pytest.fixture(scope="module")
def stepping(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("p"), model=MODELS / "demo-process") as b:
        yield b


def ask(broker, *rows):
    """The replies' rows, the job's number."""
    with broker.client() as client:
        reply = client.call("score", rows=list(rows))
        return reply["rows"], reply["job"]


def near(found, expected):
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7), (found, expected)


def of_responses(scores):
    mean, std = statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0
    high = sorted(scores, reverse=True)
    return {"best": scores.index(high[0]), "ranks": [1 + sum(s > score for s in scores) for score in scores],
            "margin": high[0] - high[1] if len(scores) > 1 else 0, "mean": mean, "std": std,
            "advantages": [(score - mean) / std if std else 0 for score in scores]}


def check(row, expected):
    for name, value in expected.items():
        near(row[name], value)


def test_responses(running):
    rows = [{"prompt": PROMPT, "responses": answers} for answers in (ANSWERS, ANSWERS[:1], ["73"] * 4, ANSWERS[:2])]
    found, job = ask(running, *rows, {"prompt": PROMPT, "response": "73"}, {"prompt": PROMPT, "responses": ["a", []]})
    *many, plain, failed = found
    for row in many:
        check(row, of_responses(row["scores"]))
    assert many[0]["ranks"][0] == many[0]["ranks"][3] and sorted(many[0]["ranks"]) != [1, 2, 3, 4, 5]
    assert (many[2]["ranks"], many[2]["advantages"], many[2]["std"], many[2]["margin"]) == ([1] * 4, [0] * 4, 0, 0)
    assert not {"ranks", "mean"} & (set(plain) | set(failed)) and failed["score"] is None
    by_row = {}
    for i, *values in running.sql(f"select i, response, score, rank, advantage from responses where job = {job} order by i, response"):
        by_row.setdefault(i, []).append(values)
    assert list(by_row) == [0, 1, 2, 3]
    for i, values in by_row.items():
        responses, scores, ranks, advantages = map(list, zip(*values))
        assert responses == list(range(len(values))) and ranks == many[i]["ranks"]
        near(scores, many[i]["scores"])
        near(advantages, many[i]["advantages"])
    for i, n, best, *numbers in running.sql(f"select i, n, best, margin, mean, std from response_stats where job = {job} order by i"):
        assert (n, best) == (len(many[i]["scores"]), many[i]["best"])
        near(numbers, [many[i][name] for name in ("margin", "mean", "std")])


def test_equal_scores_in_the_views(running):
    """The mean of equal decimals may be off by a bit; that is no deviation."""
    rows = [{"prompt": f"{i} + 4 = ?", "responses": ["7"] * n} for i in range(12) for n in (3, 6, 7)]
    found, job = ask(running, *rows)
    assert {advantage for row in found for advantage in row["advantages"]} == {0}
    assert running.sql(f"select distinct advantage from responses where job = {job}") == [(0,)]
    assert running.sql(f"select distinct std from response_stats where job = {job}") == [(0,)]


def test_documents(directory):
    """A query's documents have the statistics of responses."""
    with Broker(directory / "d", model=MODELS / "recipe-qwen3", options=["--recipe", "qwen3-reranker"]) as broker:
        (row,), job = ask(broker, {"query": "a", "documents": ["b", "c", "d"]})
        check(row, of_responses(row["scores"]))
        shown = broker.sql(f"select rank, score from responses where job = {job} order by response")
        assert [rank for rank, _ in shown] == row["ranks"] and broker.sql(f"select n, best from response_stats where job = {job}") == [(3, row["best"])]
    near([score for _, score in shown], row["scores"])


def test_thousands_of_responses(running):
    (row,), job = ask(running, {"prompt": PROMPT, "responses": [f"{k % 1500}" for k in range(4096)]})
    check(row, of_responses(row["scores"]))
    assert running.sql(f"select count(*), sum(rank) from responses where job = {job}") == [(4096, sum(row["ranks"]))]


def test_steps(stepping):
    steps = ["37 + 48 = 85", "85 - 12 = 73", "The answer is 73."]
    found, job = ask(stepping, {"prompt": PROMPT, "steps": steps}, {"prompt": PROMPT, "steps": steps[:1]},
                     {"ids": [1, 2, 3], "pool": {"type": "POSITIONS", "positions": [0, 2]}}, {"ids": [1, 2, 3], "pool": {"type": "ALL"}},
                     {"ids": [1, 2, 3], "pool": {"type": "POSITIONS", "positions": [0, 2], "activation": "none"}})
    *each, every, two = found
    for row in each:
        check(row, {"min": min(row["steps"]), "product": math.prod(row["steps"]), "last": row["steps"][-1],
                    "mean": statistics.fmean(row["steps"])})
    assert len(two["steps"]) == 2 == len(two["steps"][0])  # two labels: no number for each step
    assert not {"min", "product", "last", "mean"} & (set(every) | set(two))
    rows = stepping.sql(f"select i, n, min, product, last, mean from step_stats where job = {job} order by i")
    assert [row[:2] for row in rows] == [(i, len(row["steps"])) for i, row in enumerate(each)]
    for i, _, *numbers in rows:
        near(numbers, [each[i][name] for name in ("min", "product", "last", "mean")])


def test_statistics_beyond_float32_are_nil(directory, tmp_path):
    """In messages and in lines of JSON; the values themselves are finite."""
    model = changed_model(tmp_path / "m", 2e37)
    with Broker(directory, model=model) as broker:
        ids = [3 + k for k in range(40)]
        (row,), _ = ask(broker, {"ids": ids, "pool": {"type": "POSITIONS", "positions": list(range(0, 40, 3))}})
        path = tmp_path / "in.jsonl"
        path.write_text(json.dumps({"input_ids": ids, "pool": {"type": "POSITIONS", "positions": list(range(0, 40, 3))}}) + "\n")
        done = subprocess.run([BIN / "assay", "score", path, "-o", tmp_path / "out", "--data", directory], capture_output=True)
        assert done.returncode == 0, done
    assert row["error"] is None and row["product"] is None and row["min"] == min(row["steps"]) and len(row["steps"]) == 14
    line = json.loads((tmp_path / "out").read_text())
    assert line["product"] is None and line["last"] == pytest.approx(row["last"], rel=1e-6)


def test_lines(running):
    line = json.dumps({"id": "a", "prompt": PROMPT, "responses": ANSWERS})
    done = subprocess.run([BIN / "assay", "score", "-", "--connect", running.endpoint, "--key", random_key()], input=line + "\n",
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    check(row, of_responses(row["scores"]))
