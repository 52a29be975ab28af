"""Responses, documents and pairs that several models score: every model's own scores, bit for bit, and what their means say together, in
replies, lines of JSON and SQL, against Python's."""
import json
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess

import pytest
from harness import BIN, FAULTY_WORKER, MODELS, Broker, changed_model
from test_models import serve
from test_statistics import ANSWERS, PROMPT, near, of_responses

CHOICES = [{"prompt": PROMPT, "responses": ANSWERS[:n]} for n in (1, 2, 5)] + \
          [{"prompt": f"{k} + {k} = ?", "responses": ["7", str(2 * k), "I do not know. " * (k + 1)]} for k in range(6)]
PAIRS = [{"prompt": PROMPT, "chosen": a, "rejected": b} for a, b in zip(ANSWERS, ANSWERS[1:])] + \
        [{"chosen": [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}],
          "rejected": [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "3"}]}]
OF_CHOICE = ("scores", "best", "ranks", "margin", "mean", "std", "advantages")
OF_PAIR = ("chosen", "rejected", "margin")


@pytest.fixture
def models(tmp_path):
    return {"a": MODELS / "demo-reward", "b": changed_model(tmp_path / "b", -0.5), "c": changed_model(tmp_path / "c", 3)}


def float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def ask(client, rows, **fields):
    found = client.call("score", rows=rows, timeout_ms=100_000, timeout=120, **fields)["rows"]
    assert all(row["error"] is None for row in found), found
    return found


def check_choice(row, each, names):
    """each: by model, the row's result from it alone."""
    assert row["models"] == list(names)
    assert row["by_model"] == [{name: each[model][name] for name in OF_CHOICE} for model in names]
    by_response = list(zip(*(each[model]["scores"] for model in names)))
    assert row["scores"] == [float32(statistics.fmean(x)) for x in by_response]
    near(row["spreads"], [statistics.pstdev(x) for x in by_response])
    expected = of_responses(row["scores"])
    assert (row["best"], row["ranks"]) == (expected["best"], expected["ranks"])
    near([row["margin"], row["mean"], row["std"], *row["advantages"]],
         [expected["margin"], expected["mean"], expected["std"], *expected["advantages"]])
    assert row["n_tokens"] == sum(each[model]["n_tokens"] for model in names)
    assert row["pooled_at"] == sum((each[model]["pooled_at"] for model in names), [])


def check_pair(row, each, names):
    assert row["models"] == list(names)
    assert row["by_model"] == [{name: each[model][name] for name in OF_PAIR} for model in names]
    for name in ("chosen", "rejected"):
        assert row[name] == float32(statistics.fmean(each[model][name] for model in names))
    near(row["margin"], statistics.fmean(each[model]["margin"] for model in names))
    near(row["spread"], statistics.pstdev(each[model]["margin"] for model in names))


@pytest.mark.parametrize("options", [["--no-dedupe"], ["--replicas", 2, "--max-batch-tokens", 256], ["--no-prefix-sharing", "--score-cache", "16M"]],
                         ids=["", "replicas", "cache"])
def test_responses_and_pairs(directory, models, options):
    with serve(directory, models, "abc", options) as broker, broker.client() as client:
        names = ["c", "a", "b"]
        each = {name: ask(client, CHOICES + PAIRS, model=name) for name in names}
        assert each["a"][0]["scores"] != each["b"][0]["scores"]
        for _ in range(2):  # the second time from the cache, if there is one
            found = ask(client, CHOICES + PAIRS, models=names)
            for k, row in enumerate(found):
                (check_choice if k < len(CHOICES) else check_pair)(row, {name: each[name][k] for name in names}, names)
        [one] = ask(client, [{**CHOICES[2], "models": ["b", "a"]}])
        check_choice(one, {name: each[name][2] for name in "ba"}, "ba")


def test_a_mixed_job_and_its_views(directory, models):
    rows = [{**row, **({"models": ["a", "b"]} if k % 3 else {"model": "b"})} for k, row in enumerate(CHOICES + PAIRS)]
    with serve(directory, models, "ab") as broker, broker.client() as client:
        client.submit("mixed", rows)
        found = sorted(client.results("mixed"), key=lambda row: row["i"])
        choices, pairs = found[:len(CHOICES)], found[len(CHOICES):]

        def sql(what, more=""):
            return broker.sql(f"select {what} where job = (select job from jobs where key = 'mixed') {more}")
        by_row = {}
        for i, *values in sql("i, response, score, rank, advantage from responses", "order by i, response"):
            by_row.setdefault(i, []).append(values)
        assert sorted(by_row) == [row["i"] for row in choices]
        for row in choices:
            responses, values, ranks, advantages = map(list, zip(*by_row[row["i"]]))
            assert (responses, ranks) == (list(range(len(row["scores"]))), row["ranks"])
            near(values, row["scores"])
            near(advantages, row["advantages"])
        for row, (i, n, best, *numbers) in zip(choices, sql("i, n, best, margin, mean, std from response_stats", "order by i"), strict=True):
            assert (i, n, best) == (row["i"], len(row["scores"]), row["best"])
            near(numbers, [row[name] for name in ("margin", "mean", "std")])
        for row, (i, *numbers) in zip(pairs, sql("i, chosen, rejected, margin from pairs", "order by i"), strict=True):
            assert i == row["i"]
            near(numbers, [row[name] for name in OF_PAIR])
        expected = []
        for row in found:
            for name, of in zip(row.get("models", []), row.get("by_model", [])):
                values = of["scores"] if "scores" in of else [of["chosen"], of["rejected"]]
                expected += [(row["i"], name, k, pytest.approx(value, rel=1e-6)) for k, value in enumerate(values)]
        assert sql("i, model, response, score from model_scores", "order by i, model, response") == sorted(expected, key=lambda x: x[:3])
        assert sql("i from ensembles") == []
        n_values = [json.loads(text) for (text,) in sql("values_json from results", "order by i")]
        assert [len(values) for values in n_values] == [len(row["pooled_at"]) for row in found]


def test_lines_and_verify(directory, models, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in CHOICES + PAIRS))
    with serve(directory, models, "ab") as broker, broker.client() as client:
        each = {name: ask(client, CHOICES + PAIRS, model=name) for name in "ab"}

        def assay(*words):
            run = subprocess.run([BIN / "assay", *words, "--data", directory], capture_output=True, text=True)
            assert run.returncode == 0, run
        assay("score", path, "-o", tmp_path / "both.jsonl", "--models", "b,a")
        lines = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
        for k, line in enumerate(lines):
            assert line["models"] == ["b", "a"]
            for name, of in zip("ba", line["by_model"]):
                for field in OF_CHOICE if k < len(CHOICES) else OF_PAIR:
                    near(of[field], each[name][k][field])
        client.submit("kept", CHOICES + PAIRS, models=["a", "b"])
        client.results("kept")
        assay("verify", "kept")


def test_documents(directory, tmp_path):
    """Two rerankers, which the recipe writes the rows for."""
    row = {"query": "sums" * 9, "documents": ["3 + 4 = 7", "rain", "7"], "instruction": "Judge."}
    models = {"x": MODELS / "recipe-qwen3", "y": tmp_path / "y"}
    shutil.copytree(models["x"], models["y"])
    weights = bytearray((models["y"] / "model.safetensors").read_bytes())
    weights[-1] ^= 0x80  # another checkpoint
    (models["y"] / "model.safetensors").write_bytes(weights)
    with serve(directory, models, "xy", ["--recipe", "qwen3-reranker"]) as broker, broker.client() as client:
        each = {name: ask(client, [row], model=name)[0] for name in "xy"}
        check_choice(ask(client, [row], models=["x", "y"])[0], each, "xy")


def test_each_has_its_own_pad_rule(directory, tmp_path):
    """The token that a response is pooled at is each model's own."""
    with Broker(directory / "alone", model=MODELS / "demo-reward") as broker, broker.client() as client:
        ends_in = ask(client, CHOICES[:1])[0]["pooled_at"][0]["id"]
    models = {}
    for name, pad in (("a", ends_in), ("b", None)):
        shutil.copytree(MODELS / "demo-reward", models.setdefault(name, tmp_path / name))
        config = json.loads((models[name] / "config.json").read_text())
        (models[name] / "config.json").write_text(json.dumps({**config, "pad_token_id": pad}))
    with serve(directory / "both", models, "ab") as broker, broker.client() as client:
        rows = [{**row, "hf_pad_rule": True} for row in CHOICES[:3] + PAIRS[:2]]
        each = {name: ask(client, rows, model=name) for name in "ab"}
        assert all(one["pooled_at"] != other["pooled_at"] for one, other in zip(each["a"], each["b"]))
        for k, row in enumerate(ask(client, rows, models=["a", "b"])):
            (check_choice if k < 3 else check_pair)(row, {name: each[name][k] for name in "ab"}, "ab")


def test_what_is_refused(directory, models):
    with serve(directory, {**models, "r": MODELS / "reward"}, "abr") as broker, broker.client() as client:
        def error(row, names=("a", "b")):
            found = client.call("score", rows=[{**row, "models": list(names)}], timeout_ms=60000, timeout=90)["rows"][0]
            assert found["score"] is None and not {"models", "by_model", "scores"} & set(found)
            return found["error"]["code"], found["error"]["message"]
        code, words = error({**CHOICES[0], "pool": {"type": "ALL"}})
        assert code == "many_values" and words.startswith("a: "), words
        code, words = error({"prompt": "1", "responses": ["2", "x" * 100_000]})
        assert code == "too_long" and words.startswith("a: responses[1]: "), words
        code, words = error(PAIRS[0], "ar")
        assert code == "bad_text" and words.startswith("r: "), words
        assert error(CHOICES[0], "az")[0] == "unknown_model"
        assert "max_length" in error({**CHOICES[0], "truncate": True})[1]
        [cut] = ask(client, [{**CHOICES[2], "models": ["a", "b"], "truncate": True, "max_length": 3}])
        assert cut["n_tokens"] == 2 * 5 * 3


def test_a_failure_names_its_model(directory, models):
    with serve(directory, models, "ab", worker=FAULTY_WORKER) as broker, broker.client() as client:
        rows = [{"ids": [5, 9, 6], "models": ["b", "a"]}, {"ids": [5, 6], "models": ["b", "a"]}]
        failed, whole = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        assert failed["error"]["code"] == "non_finite" and failed["error"]["message"][:9] in ("a: value ", "b: value "), failed
        assert whole["error"] is None


def test_models_are_not_steps(directory, models):
    """A row of steps has its statistics in a view of their own, which has no row of several models."""
    with serve(directory, models, "ab") as broker, broker.client() as client:
        pool = {"type": "POSITIONS", "positions": [0], "activation": "none"}
        ask(client, [{"ids": [5, 6], "pool": pool, "models": ["a", "b"]}])
        assert broker.sql("select count(*) from ensembles") == [(1,)] and broker.sql("select * from step_stats") == []


def test_steps_are_refused(directory):
    with serve(directory, {"p": MODELS / "demo-process", "q": MODELS / "demo-process"}, "pq") as broker, broker.client() as client:
        row = {"prompt": PROMPT, "steps": ["85 - 12 = 73", "73"], "models": ["p", "q"]}
        error = client.call("score", rows=[row], timeout_ms=60000, timeout=90)["rows"][0]["error"]
        assert error["code"] == "bad_request" and "steps go through one model each" in error["message"], error


def test_kills(directory, models):
    """Broker and workers are killed while it runs; then the models are served in another order, and some under other names."""
    rng = random.Random(3)
    rows = [{**rng.choice(CHOICES + PAIRS), "models": rng.sample("abc", rng.choice([2, 3]))} for _ in range(200)]
    with serve(directory / "truth", models, "abc", ["--no-dedupe"]) as broker, broker.client() as client:
        truth = ask(client, rows)
    with serve(directory / "d", models, "abc", ["--max-batch-tokens", 128]) as broker:
        with broker.client() as client:
            client.submit("job", rows)
        for _ in range(3):
            for pid in broker.worker_pids():
                os.kill(pid, signal.SIGKILL)
            broker.kill9()
            broker.start()
        with broker.client() as client:
            found = sorted(client.results("job", timeout=120), key=lambda row: row["i"])
        assert found == truth
    with serve(directory / "d", {"x": models["c"], "b": models["b"], "a": models["a"]}, "xba") as broker, broker.client() as client:
        assert sorted(client.results("job"), key=lambda row: row["i"]) == truth
        done = subprocess.run([BIN / "assay", "verify", "job", "--data", directory / "d"], capture_output=True, text=True)
        assert done.returncode == 0, done
