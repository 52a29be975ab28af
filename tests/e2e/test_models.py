"""Several models in one broker: each row has the bits that its model gives alone, whatever it is mixed with; a job belongs to its
models at every start; rows of several models have each one's score."""
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import struct
import subprocess
import threading
import time

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, Refused, changed_model, ids_bytes, random_key, wait_until
from http_harness import Http, float32

TEXTS = [{"id": i, "prompt": f"{i} + {i + 3} = ?", "response": str(2 * i + 3 + i % 2)} for i in range(24)]
IDS = [{"id": i, "ids": ids_bytes([3 + (7 * i + k) % 90 for k in range(1 + i % 40)])} for i in range(24)]


@pytest.fixture
def models(tmp_path):
    return {"a": MODELS / "demo-reward", "b": changed_model(tmp_path / "b", -0.5), "c": MODELS / "reward"}


def serve(directory, models, names, options=(), **more):
    words = [word for name in names[1:] for word in ("--model", f"{name}={models[name]}")]
    return Broker(directory, model=f"{names[0]}={models[names[0]]}", options=[*words, *options], **more)


def scores(rows):
    assert all(row["error"] is None for row in rows), rows
    return [row["score"] for row in sorted(rows, key=lambda row: row["i"])]


def score(client, rows, **fields):
    return scores(client.call("score", rows=rows, timeout_ms=60000, timeout=90, **fields)["rows"])


def alone(directory, models, name, rows):
    with Broker(directory, model=models[name]) as broker, broker.client() as client:
        return score(client, rows)


def test_each_row_has_the_bits_of_its_model_alone(directory, tmp_path, models):
    expected = {name: alone(tmp_path / f"alone-{name}", models, name, TEXTS) for name in "ab"}
    ids = {name: alone(tmp_path / f"ids-{name}", models, name, IDS) for name in "abc"}
    assert expected["a"] != expected["b"] and ids["a"] != ids["c"]
    with serve(directory, models, "abc") as broker, broker.client() as client:
        assert score(client, TEXTS) == expected["a"]  # the first is for rows that name none
        assert score(client, TEXTS, model="b") == expected["b"]
        mixed = [{**row, "model": "abb"[i % 3]} for i, row in enumerate(TEXTS)]
        assert score(client, mixed) == [expected["abb"[i % 3]][i] for i in range(len(mixed))]
        assert score(client, mixed, model="b") == [expected["abb"[i % 3]][i] for i in range(len(mixed))]
        rows = [{**row, "model": "cab"[i % 3]} for i, row in enumerate(IDS)]
        assert score(client, rows) == [ids["cab"[i % 3]][i] for i in range(len(rows))]
        key = random_key()
        client.submit(key, rows[:10], seal=False)
        client.submit(key, rows[10:], chunk=1)
        assert scores(client.results(key)) == [ids["cab"[i % 3]][i] for i in range(len(rows))]
        checkpoints = broker.sql("select model, count(distinct checkpoint) from results join rows using (job, i) group by model")
        assert checkpoints == [("a", 1), ("b", 1), ("c", 1)]
        assert [m["name"] for m in client.call("hello")["models"]] == ["a", "b", "c"]
        info = client.call("info")
        assert [(w["group"], w["model"]) for w in info["workers"]] == [(0, "a"), (1, "b"), (2, "c")]
    renamed = {"a": models["b"], "b": models["a"], "x": models["c"]}
    for served, names in [(models, "abc"), (renamed, "xab"), (renamed, "abx")]:  # what counts is the checkpoint
        with serve(directory, served, names) as broker:
            verify = subprocess.run([BIN / "assay", "verify", key, "--data", directory], capture_output=True, text=True)
            assert verify.returncode == 0, verify


def test_many_rows_of_two_models_in_turns(directory, tmp_path, models):
    rows = [{"ids": ids_bytes([1 + (i * 31 + k) % 90 for k in range(1 + i % 7)]), "model": "ab"[(i // 1000) % 2]} for i in range(6000)]
    expected = {name: alone(tmp_path / f"alone-{name}", models, name, [{"ids": row["ids"]} for row in rows]) for name in "ab"}
    with serve(directory, models, "ab") as broker, broker.client() as client:
        key = random_key()
        for chunk in range(6):
            client.submit(key, rows[chunk * 1000:(chunk + 1) * 1000], chunk=chunk, seal=chunk == 5)
        found = client.results(key)
        assert scores(found) == [expected[row["model"]][i] for i, row in enumerate(rows)]


def test_names_that_are_not_there(directory, models):
    with serve(directory, models, "ab") as broker, broker.client() as client:
        with pytest.raises(Refused) as refused:
            client.call("score", rows=TEXTS, model="z")
        assert refused.value.code == "unknown_model" and "a, b" in str(refused.value) and "'z'" in str(refused.value)
        rows = client.call("score", rows=[{**TEXTS[0], "model": "z"}, TEXTS[1]], timeout_ms=60000)["rows"]
        assert rows[0]["error"]["code"] == "unknown_model" and "a, b" in rows[0]["error"]["message"] and rows[1]["error"] is None
        client.submit("job", TEXTS[:3], seal=False, model="b")
        with pytest.raises(Refused) as refused:
            client.submit("job", TEXTS[3:], chunk=1, model="a")
        assert refused.value.code == "wrong_state" and "'b'" in str(refused.value)
        client.submit("job", TEXTS[3:], chunk=1)  # the job's model
        client.submit("job", TEXTS[3:], chunk=1, model="b")  # the same chunk
        assert client.call("status", job="job")["model"] == "b"
        assert scores(client.results("job")) == score(client, TEXTS, model="b")
        row = client.call("score", rows=[{**TEXTS[0], "model": "b", "truncate": True}], timeout_ms=60000)["rows"][0]
        assert row["error"]["code"] == "bad_request" and "max_length" in row["error"]["message"]
        for fields in ({"model": "a", "models": ["b"]}, {"models": []}, {"models": ["a", "a"]}, {"models": ["a"], "adapter": "x"}):
            with pytest.raises(Refused) as refused:
                client.call("score", rows=[{**TEXTS[0], **fields}])
            assert refused.value.code == "bad_request"
        name = client.call("open", row={"prompt": TEXTS[5]["prompt"], "response": TEXTS[5]["response"], "model": "b"})["session"]
        assert scores(client.call("score", sessions=[name], timeout_ms=60000)["rows"]) == score(client, TEXTS[5:6], model="b")
        with pytest.raises(Refused):
            client.call("score", sessions=[name], model="a")


@pytest.mark.parametrize("op", ["score", "submit"])
@pytest.mark.parametrize("is_late", [False, True], ids=["in front of the rows", "behind them"])
def test_names_in_a_message_that_are_not_there(directory, models, op, is_late):
    """The whole message is refused, as for `model`: no row is at fault, and all would fail."""
    def refusal(client, names, rows=TEXTS):
        fields = {"rows": rows, "models": names} if is_late else {"models": names, "rows": rows}
        fields |= {"key": "k", "chunk": 0, "seal": True} if op == "submit" else {"key": "k"}
        with pytest.raises(Refused) as refused:
            client.call(op, **fields)
        with pytest.raises(Refused) as unknown:
            client.call("status", job="k")
        assert unknown.value.code == "unknown_job"
        return refused.value.code, refused.value.err["field"], str(refused.value)
    with serve(directory, models, "ab") as broker, broker.client() as client:
        code, field, words = refusal(client, ["a", "z"])
        assert (code, field) == ("unknown_model", "models[1]") and "a, b" in words and "'z'" in words
        assert refusal(client, ["z", "a"])[:2] == ("unknown_model", "models[0]")
        code, field, words = refusal(client, ["a", "b/x"])
        assert (code, field) == ("unknown_adapter", "models[1]") and "for b, found 'x'" in words
        code, field, words = refusal(client, ["a"])
        assert (code, field) == ("bad_request", "models") and "2 to 8 names, found 1; model is the field for one" in words
        if op == "submit":
            assert refusal(client, ["a", "z"], [])[:2] == ("unknown_model", "models[1]")


def test_a_checkpoint_under_two_names(directory, models):
    with serve(directory, {"a": models["a"], "z": models["a"]}, "az") as broker, broker.client() as client:
        client.submit("job", TEXTS[:4], seal=False, model="z")
        client.submit("job", TEXTS[4:], chunk=1, model="z")
        assert scores(client.results("job")) == score(client, TEXTS, model="a")


@pytest.mark.parametrize("options, words", [
    (["--model", "/x"], "NAME=DIR for each of several models"),
    (["--model", "a=/tmp"], "another NAME"),
    (["--model", "b=/tmp", "--lora", "x=/tmp"], "MODEL/NAME=DIR"),
    (["--model", "b=/tmp", "--lora", "c/x=/tmp"], "MODEL/NAME=DIR"),
    (["--model", "b=/tmp", "--served-name", "x"], "none where --model has a NAME"),
])
def test_options(directory, models, options, words):
    run = subprocess.run([BIN / "assayd", "--data", directory, "--model", f"a={models['a']}", *options], capture_output=True, text=True)
    assert run.returncode == 64 and words in run.stderr, run.stderr


def test_restarts_with_other_models(directory, models):
    """A job waits for its models, wherever they are in the list; the others run."""
    rows = [{"ids": row["ids"], "model": "ab"[i % 2]} for i, row in enumerate(IDS)]
    with serve(directory, models, "abc") as broker, broker.client() as client:
        for key in "abc":
            client.submit(key, [{"ids": row["ids"]} for row in IDS], seal=False, model=key)
        client.submit("mixed", rows, seal=False)
        expected = {key: scores(client.call("score", rows=[{"ids": row["ids"]} for row in IDS], model=key, timeout_ms=60000)["rows"])
                    for key in "abc"}
        broker.kill9()
    with serve(directory, models, "ca") as broker, broker.client() as client:
        status = {key: client.call("status", job=key) for key in ("a", "b", "c", "mixed")}
        assert status["b"]["state"] == "paused" and "the broker has no model 'b'" in status["b"]["reason"], status["b"]
        assert status["mixed"]["state"] == "paused" and "made with model b (" in status["mixed"]["reason"], status["mixed"]
        assert "none of that name" in status["mixed"]["reason"]
        for key, one in broker.sql("select key, reason from jobs where key in ('a', 'b', 'c', 'mixed')"):
            assert one == status[key].get("reason")
        for key in "ac":
            client.submit(key, None, chunk=1)
            assert scores(client.results(key)) == expected[key]
        with pytest.raises(Refused) as refused:
            client.submit("b", None, chunk=1)
        assert refused.value.code == "wrong_state"
        with pytest.raises(Refused) as refused:
            client.call("resume", job="b", accept_mode=True)
        assert "'b'" in str(refused.value)
    with serve(directory, models, "cba") as broker, broker.client() as client:
        for key in ("b", "mixed"):
            client.submit(key, None, chunk=1)
        assert scores(client.results("b")) == expected["b"]
        assert scores(client.results("mixed")) == [expected["ab"[i % 2]][i] for i in range(len(rows))]


def test_another_checkpoint_under_the_name_holds_the_job(directory, models, tmp_path):
    with serve(directory, models, "ab") as broker, broker.client() as client:
        client.submit("job", TEXTS[:4], seal=False, model="b")
        broker.kill9()
    other = {**models, "b": changed_model(tmp_path / "other", 2)}
    with serve(directory, other, "ab") as broker, broker.client() as client:
        status = client.call("status", job="job")
        assert status["state"] == "paused" and " as b" in status["reason"], status
        client.call("resume", job="job", accept_mode=True)
        client.submit("job", TEXTS[4:], chunk=1)
        found = client.results("job")
        assert scores(found)[4:] == score(client, TEXTS, model="b")[4:]


def test_adapters_are_of_a_model(directory, models):
    lora = MODELS / "lora"
    with serve(directory, models, "ac", ["--lora", f"c/half={lora / 'reward-half'}"]) as broker, broker.client() as client:
        ids = [{"ids": row["ids"], "model": "c"} for row in IDS]
        with_adapter = score(client, [{**row, "adapter": "half"} for row in ids])
        assert with_adapter != score(client, ids)
        row = client.call("score", rows=[{"ids": IDS[0]["ids"], "adapter": "half"}], timeout_ms=60000)["rows"][0]
        assert row["error"]["code"] == "unknown_adapter"
        client.call("adapter_add", name="all", dir=str(lora / "reward-all"), model="c", timeout=60)
        assert [(a["name"], a["model"]) for a in client.call("adapters")["adapters"]] == [("all", "c"), ("half", "c")]
        assert score(client, [{**row, "adapter": "half"} for row in ids]) == with_adapter
        client.submit("job", [{**row, "adapter": "all"} for row in ids], seal=False)
        client.call("adapter_remove", name="all", model="c")
        assert "adapter c/all (" in client.call("status", job="job")["reason"]


def test_ensembles(directory, models):
    with serve(directory, models, "ab", ["--no-dedupe"]) as broker, broker.client() as client:
        each = {name: score(client, TEXTS, model=name) for name in "ab"}
        rows = client.call("score", rows=[{**row, "models": ["b", "a"]} for row in TEXTS], timeout_ms=60000, timeout=90)["rows"]
        for i, row in enumerate(rows):
            assert row["error"] is None and row["models"] == ["b", "a"] and row["scores"] == [each["b"][i], each["a"][i]], row
            assert row["mean"] == pytest.approx(statistics.fmean(row["scores"]), rel=1e-6)
            assert row["std"] == pytest.approx(statistics.pstdev(row["scores"]), rel=1e-5)
        client.submit("job", [{**row, "model": "b"} if row["id"] % 3 == 0 else row for row in TEXTS], models=["a", "b"])
        for row in client.results("job"):
            i = row["i"]
            assert row["score"] == each["b"][i] if i % 3 == 0 else row["scores"] == [each["a"][i], each["b"][i]]
        ids = client.call("score", rows=[{**IDS[4], "models": ["a", "b"]}], timeout_ms=60000)["rows"][0]
        assert ids["scores"] == [score(client, [IDS[4]], model=name)[0] for name in "ab"]
        found = broker.sql("select i, n, mean, std from ensembles where job = (select job from jobs where key = 'job') order by i")
        assert [row[0] for row in found] == [i for i in range(len(TEXTS)) if i % 3]
        for i, n, mean, std in found:
            both = [each["a"][i], each["b"][i]]
            assert n == 2 and mean == pytest.approx(statistics.fmean(both)) and std == pytest.approx(statistics.pstdev(both))
        found = broker.sql("select model, score from model_scores where job = (select job from jobs where key = 'job') and i = 1")
        assert found == [("a", pytest.approx(each["a"][1])), ("b", pytest.approx(each["b"][1]))]


def test_each_model_of_an_ensemble_has_its_own_pad_rule(directory, tmp_path):
    """The bits that it gives alone, from the token that it pools alone."""
    models = {}
    for name, pad in (("a", 13), ("b", 14)):
        shutil.copytree(MODELS / "demo-reward", models.setdefault(name, tmp_path / name))
        config = json.loads((models[name] / "config.json").read_text())
        (models[name] / "config.json").write_text(json.dumps({**config, "pad_token_id": pad}))
    with serve(directory, models, "ab") as broker, broker.client() as client:
        for said, at in ((True, (1, 2)), (False, (2, 2))):
            row = {"ids": ids_bytes([14, 5, 13]), "hf_pad_rule": said}
            each = [client.call("score", rows=[row], model=name, timeout_ms=60000)["rows"][0] for name in "ab"]
            [both] = client.call("score", rows=[{**row, "models": ["a", "b"]}], timeout_ms=60000)["rows"]
            assert tuple(one["pooled_at"][0]["i"] for one in each) == at
            assert both["scores"] == [one["score"] for one in each] and both["activation"] == "none"
            assert both["pooled_at"] == [one["pooled_at"][0] for one in each]


def test_the_activation_is_said_where_the_model_is_gone(directory, models):
    """Its absence means the model's own, which nobody can ask for any more."""
    rows = [TEXTS[0], {**TEXTS[1], "pool": {"activation": "sigmoid"}}]
    with serve(directory, models, "ab") as broker, broker.client() as client:
        client.submit("job", rows, model="b")
        client.submit("both", [{**row, "models": ["a", "b"]} for row in rows])
        assert [row.get("activation") for row in client.results("job")] == [None, "sigmoid"]
        assert [row.get("activation") for row in client.results("both")] == ["none", "sigmoid"]
    with serve(directory, models, "a") as broker, broker.client() as client:
        for key in ("job", "both"):
            assert [row.get("activation") for row in client.results(key)] == ["none", "sigmoid"]


def test_what_an_ensemble_does_not_take(directory, models):
    with serve(directory, models, "abc") as broker, broker.client() as client:
        def error(row, models=("a", "b")):
            found = client.call("score", rows=[{**row, "models": list(models)}], timeout_ms=60000, timeout=90)["rows"][0]
            return found["error"]["code"], found["error"]["message"]
        code, words = error(IDS[3], "ac")
        assert code == "bad_request" and words.startswith("ids: expected text"), words
        assert error(TEXTS[0], "az")[0] == "unknown_model"
        code, words = error(TEXTS[0], "ac")
        assert code == "bad_text" and words.startswith("c: "), words
        assert "max_length" in error({**TEXTS[0], "truncate": True})[1]
        row = {**TEXTS[0], "models": ["a", "b"], "truncate": True, "max_length": 2}
        assert client.call("score", rows=[row], timeout_ms=60000)["rows"][0]["n_tokens"] == 4


def test_a_model_whose_workers_do_not_start(directory, models):
    """Whoever waits for its rows hears why, while another model's workers serve; who waits for that one's hears nothing."""
    with serve(directory, models, "ab") as broker, broker.client() as client:
        expected = score(client, TEXTS[:2], model="b")
        path = models["b"] / "model.safetensors"
        intact = path.read_bytes()
        (models["b"] / "new").write_bytes(intact[:-5] + bytes([intact[-5] ^ 1]) + intact[-4:])
        os.rename(models["b"] / "new", path)
        [pid] = [worker["pid"] for worker in client.call("info")["workers"] if worker["model"] == "b"]
        os.kill(pid, signal.SIGKILL)
        client.submit("of-b", TEXTS[2:4], model="b")
        client.submit("both", TEXTS[4:6], models=["a", "b"])
        client.submit("row", [{**TEXTS[6], "model": "b"}])
        client.submit("of-a", TEXTS[7:9], seal=False)
        for key in ("of-b", "both", "row"):
            status = wait_until(lambda key=key: (lambda reply: "failure" in reply and reply)(client.call("status", job=key)))
            assert status["failure"].startswith("model 'b': ") and " was changed " in status["failure"], status
        assert "failure" not in client.call("status", job="of-a")
        with pytest.raises(Refused) as refused:
            client.call("score", rows=TEXTS[9:10], model="b", timeout_ms=500)
        assert refused.value.code == "timeout" and "the workers do not start" in str(refused.value) and "model 'b': " in str(refused.value)
        waiting = subprocess.Popen([BIN / "assay", "wait", "of-b", "--data", directory], stderr=subprocess.PIPE, text=True)
        assert "the workers do not start, they are tried again: model 'b': " in waiting.stderr.readline()
        path.write_bytes(intact)
        _, words = waiting.communicate(timeout=120 * PATIENCE)
        assert waiting.returncode == 0, words
        assert score(client, TEXTS[:2], model="b", fresh=True) == expected
        assert "failure" not in client.call("status", job="of-b")


def test_an_ensemble_of_models_with_other_step_tokens(directory, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(MODELS / "demo-process", other)
    tokens = (other / "tokenizer.json").read_text()
    for old, new in (("<extra_0>", "<swapped>"), ("<|im_end|>", "<extra_0>"), ("<swapped>", "<|im_end|>")):
        tokens = tokens.replace(old, new)
    (other / "tokenizer.json").write_text(tokens)
    with serve(directory, {"p": MODELS / "demo-process", "x": other}, "px") as broker, broker.client() as client:
        row = {"text": "a<extra_0>b<|im_end|>", "models": ["p", "x"]}
        found = client.call("score", rows=[row], timeout_ms=60000, timeout=90)["rows"][0]
        assert found["error"]["code"] == "bad_request" and "one step token" in found["error"]["message"], found


def refuses(client, key, rows, **fields):
    with pytest.raises(Refused) as refused:
        client.submit(key, rows, chunk=1, **fields)
    assert refused.value.code == "wrong_state" and "of that name" in str(refused.value)
    client.submit(key, None, chunk=1)


def test_names_that_are_exchanged(directory, models):
    """What a job's rows named before goes on under its checkpoint; new rows by that name are refused, not scored by either."""
    with serve(directory, models, "ab") as broker, broker.client() as client:
        each = {name: score(client, TEXTS, model=name) for name in "ab"}
        client.submit("both", TEXTS[:6], seal=False, models=["a", "b"])
        client.submit("gap", TEXTS[3:6], chunk=1, model="b")
        broker.kill9()
    with serve(directory, {"a": models["b"], "b": models["a"]}, "ab") as broker, broker.client() as client:
        refuses(client, "both", TEXTS[6:], models=["a", "b"])
        assert [row["scores"] for row in sorted(client.results("both"), key=lambda row: row["i"])] == list(map(list, zip(each["a"][:6], each["b"][:6])))
        client.submit("gap", TEXTS[:3], chunk=0, seal=False)
        assert scores(client.results("gap")) == each["b"][:6]


def test_a_name_that_is_another_checkpoint_now(directory, models):
    rows = [{"ids": row["ids"], "model": "b"} for row in IDS]
    with serve(directory, models, "abc") as broker, broker.client() as client:
        b = score(client, rows)
        client.submit("rows", rows[:6], seal=False)
        broker.kill9()
    with serve(directory, {"a": models["a"], "b": models["c"], "c": models["b"]}, "abc") as broker, broker.client() as client:
        refuses(client, "rows", rows[6:])
        assert scores(client.results("rows")) == b[:6]


def test_a_chunk_that_waited_for_the_one_before_belongs_to_its_job(directory, models):
    with serve(directory, models, "ab") as broker, broker.client() as client:
        each = score(client, TEXTS, model="b")
        client.submit("gap", TEXTS[3:6], chunk=1, model="b")
        broker.kill9()
    with serve(directory, {"a": models["a"], "z": models["b"]}, "az") as broker, broker.client() as client:
        client.submit("gap", TEXTS[:3], chunk=0, seal=False)
        assert scores(client.results("gap")) == each[:6]


def test_accept_mode_takes_what_has_an_ensembles_names(directory, models, tmp_path):
    with serve(directory, models, "ab") as broker, broker.client() as client:
        a = score(client, TEXTS[:6], model="a")
        client.submit("job", TEXTS[:1], seal=False)
        client.call("pause", job="job")
        client.submit("job", TEXTS[:6], chunk=1, models=["a", "b"])
    other = {**models, "b": changed_model(tmp_path / "other", 2)}
    with serve(directory, other, "ab") as broker, broker.client() as client:
        b = score(client, TEXTS[:6], model="b")
        client.call("resume", job="job", accept_mode=True)
        rows = sorted(client.results("job"), key=lambda row: row["i"])
        assert [row.get("scores") for row in rows[1:]] == list(map(list, zip(a, b))), rows


def test_an_ensemble_waits_for_all_its_models(directory, models, tmp_path):
    with serve(directory, models, "ab") as broker, broker.client() as client:
        each = {name: score(client, TEXTS, model=name) for name in "ab"}
        client.submit("job", TEXTS[:6], seal=False, models=["a", "b"])
        broker.kill9()
    other = {**models, "b": changed_model(tmp_path / "other", 2)}
    with serve(directory, other, "ab") as broker, broker.client() as client:
        status = client.call("status", job="job")
        assert status["state"] == "paused" and "models a/,b/" in status["reason"], status
        assert broker.sql("select reason from jobs where key = 'job'") == [(status["reason"],)]
    with serve(directory, models, "ab") as broker, broker.client() as client:
        client.submit("job", TEXTS[6:], chunk=1, models=["a", "b"])
        assert [row["scores"] for row in sorted(client.results("job"), key=lambda row: row["i"])] == list(map(list, zip(each["a"], each["b"])))


def test_command_line(directory, models, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    with serve(directory, models, "ab") as broker, broker.client() as client:
        each = {name: score(client, TEXTS, model=name) for name in "ab"}

        def assay(*words):
            run = subprocess.run([BIN / "assay", *words, "--data", directory], capture_output=True, text=True)
            assert run.returncode == 0, run
            return run.stdout

        def lines(path):
            return [json.loads(line) for line in path.read_text().splitlines()]

        assay("score", rows, "-o", tmp_path / "b.jsonl", "--models", "b")
        assert [line["score"] for line in lines(tmp_path / "b.jsonl")] == pytest.approx(each["b"], rel=1e-6)
        assay("score", rows, "-o", tmp_path / "both.jsonl", "--models", "a,b")
        for i, line in enumerate(lines(tmp_path / "both.jsonl")):
            assert line["models"] == ["a", "b"] and line["scores"] == pytest.approx([each["a"][i], each["b"][i]], rel=1e-6)
            assert line["mean"] == pytest.approx(statistics.fmean(line["scores"]), rel=1e-6, abs=1e-6)
        assay("submit", rows, "--key", "k", "--models", "b")
        assay("wait", "k")
        assert client.call("status", job="k")["model"] == "b"
        assert scores(client.results("k")) == each["b"]
        rows.write_text("".join(json.dumps({**TEXTS[0], "model": name}) + "\n" for name in ("a", "b", "gpt-4", ["b"], None)))
        run = subprocess.run([BIN / "assay", "score", rows, "-o", tmp_path / "named.jsonl", "--data", directory], capture_output=True)
        found = lines(tmp_path / "named.jsonl")
        assert [line["error"] and line["error"]["code"] for line in found] == [None, "bad_request", None, "bad_request", None] and run.returncode == 1
        assert "say --models NAMES" in found[1]["error"]["message"]
        assay("score", rows, "-o", tmp_path / "said.jsonl", "--models", "b")
        assert [line["score"] for line in lines(tmp_path / "said.jsonl")] == pytest.approx([each["b"][0]] * 5, rel=1e-6)
    run = subprocess.run([BIN / "assay", "score", rows, "--model", models["a"], "--models", "a"], capture_output=True, text=True)
    assert run.returncode == 64 and "--models" in run.stderr


def test_an_output_is_kept_where_a_model_is_not_there(directory, models, tmp_path):
    """A good output was replaced by one error for each of its rows."""
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in TEXTS[:8]))

    def assay(names, *more):
        words = [BIN / "assay", "score", rows, "-o", out, "--models", names, "--data", directory, *more]
        return subprocess.run(words, capture_output=True, text=True)

    def check_refused(names, found, *more):
        done = assay(names, *more)
        assert done.returncode == 65 and f"found '{found}' (unknown_model)" in done.stderr, done
        assert out.read_bytes() == good and not (tmp_path / "out.jsonl.part").exists()

    with serve(directory, models, "ab"):
        assert assay("a,b").returncode == 0
        good = out.read_bytes()
        for names, found in (("a,zz", "zz"), ("zz,a", "zz"), ("zz", "zz")):
            check_refused(names, found)
        done = subprocess.run([BIN / "assay", "submit", rows, "--key", "k", "--models", "a,zz", "--data", directory], capture_output=True)
        assert done.returncode == 65
    with serve(directory, models, "a"):
        for more in ([], ["--key", "k"], ["--accept-mode"]):
            check_refused("a,b", "b", *more)
    with serve(directory, models, "ab"):
        assert assay("a,b").returncode == 0 and out.read_bytes() == good


def test_a_run_is_continued_with_its_own_models(directory, models, tmp_path):
    """A job that an earlier `assay score` left is not taken for one of the models that the same command means now."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in TEXTS[:4]))
    commands = {None: [], "b": ["--models", "b"], "a,b": ["--models", "a,b"]}

    def run(name, *more):
        out = tmp_path / f"{name}.jsonl"
        words = [BIN / "assay", "score", rows, "-o", out, "--data", directory, *commands[name], *more]
        done = subprocess.run(words, capture_output=True, text=True)
        found = [json.loads(line) for line in out.read_text().splitlines()] if done.returncode == 0 else None
        out.unlink(missing_ok=True)
        return done, found

    def check(client, again):
        names = [model["name"] for model in client.call("hello")["models"]]
        each, first = {name: score(client, TEXTS[:4], model=name) for name in names}, names[0]
        jobs = len(client.call("jobs")["jobs"])
        for name in commands:
            done, found = run(name)
            assert done.returncode == 0, done
            for i, line in enumerate(found):
                wanted = [each["a"][i], each["b"][i]] if name == "a,b" else each[name or first][i]
                assert line.get("scores", line.get("score")) == pytest.approx(wanted, rel=1e-6), (name, line, done.stderr)
        assert len(client.call("jobs")["jobs"]) - jobs == (0 if again else 2)

    with serve(directory, models, "a"):
        assert run(None)[0].returncode == 0
    with serve(directory, models, "ab") as broker, broker.client() as client:
        assert "scoring anew" not in run(None)[0].stderr  # the job of the time when there was one model
        check(client, False)
        check(client, True)
        for name in commands:
            assert run(name, "--key", f"key of {name}")[0].returncode == 0
    with serve(directory, models, "ba") as broker, broker.client() as client:
        run_again, _ = run(None, "--key", "key of None")
        assert run_again.returncode not in (0, 64) and "job 'key of None' is not of the models of this command" in run_again.stderr
        assert "expected 'a', the model of this job, found 'b'" in run_again.stderr
        assert run("b", "--key", "key of b")[0].returncode == run("a,b", "--key", "key of a,b")[0].returncode == 0
        done, _ = run(None)
        assert "scoring anew" in done.stderr
        assert "scoring anew" not in run("b")[0].stderr and "scoring anew" not in run("a,b")[0].stderr
    with serve(directory, {"a": models["b"], "b": models["a"]}, "ab") as broker, broker.client() as client:
        for name in ("b", "a,b"):
            again, _ = run(name, "--key", f"key of {name}")
            assert again.returncode not in (0, 64) and f"job 'key of {name}' is not of the models" in again.stderr, again
        # Without --models the first is the same as in the last run.
        assert "scoring anew" not in run(None)[0].stderr
        for name in ("b", "a,b"):
            assert "scoring anew" in run(name)[0].stderr
        check(client, True)
    with serve(directory, {"a": models["b"], "z": models["b"], "b": models["a"]}, "zab") as broker, broker.client() as client:
        check(client, True)


@pytest.mark.parametrize("then, names, wanted, status", [
    ({"first": "a", "second": "b"}, ["second", "first"], "a", 200),
    ({"second": "b"}, ["second"], None, 404),
    ({"first": "b", "other": "a"}, ["first", "other"], "b", 503),
], ids=["another-order", "without-it", "exchanged"])
def test_http_asks_for_its_model_by_name(directory, tmp_path, models, then, names, wanted, status):
    """A request that was made before the broker is started anew, and reaches it after that."""
    body = {"input": [[5, 9, 11], [7, 8]], "model": "first"}
    rows = [{"ids": ids_bytes(ids)} for ids in body["input"]]
    expected = {name: alone(tmp_path / f"alone-{name}", models, name, rows) for name in "ab"}
    broker = serve(directory, {"first": models["a"], "second": models["b"]}, ["first", "second"]).start()
    with Http(tmp_path, broker) as http:
        def probs(reply):
            return [float32(one["probs"][0]) for one in reply["data"]]
        assert probs(http.ok("/classify", body)) == expected["a"]
        broker.kill9()
        replies = []
        thread = threading.Thread(target=lambda: replies.append(http.post("/classify", body)))
        thread.start()
        wait_until(lambda: re.search(r"num_requests_running\S* 1", http.get("/metrics")[1]))
        with serve(directory, {name: models[of] for name, of in then.items()}, names):
            thread.join(120 * PATIENCE)
            [(found, reply)] = replies
            assert found == status, reply
            if status == 200:
                assert probs(reply) == expected[wanted]
            elif wanted:
                assert "started anew with another checkpoint" in reply["error"]["message"]
                assert probs(http.ok("/classify", body)) == expected[wanted]
            else:
                assert "expected second, found 'first'" in reply["error"]["message"] and reply["error"]["param"] == "model"


def test_http_does_not_take_a_job_of_another_model(directory, tmp_path, models):
    """The broker had the rows when it was ended, and comes back with the names exchanged."""
    body = {"input": [[k % 300, 5, 7, k // 300] * 100 for k in range(40)], "model": "first"}
    broker = serve(directory, {"first": models["a"], "second": models["b"]}, ["first", "second"], ["--max-batch-tokens", 512]).start()
    with Http(tmp_path, broker) as http:
        replies = []
        thread = threading.Thread(target=lambda: replies.append(http.post("/classify", body)))
        thread.start()
        wait_until(lambda: broker.sql("select count(*) from jobs where key like 'assay-http%'") == [(1,)])
        broker.kill9()
        with serve(directory, {"first": models["b"], "second": models["a"]}, ["first", "second"]):
            thread.join(120 * PATIENCE)
            [(found, reply)] = replies
            assert found == 503 and "started anew with another checkpoint" in reply["error"]["message"], reply
            assert http.ok("/classify", body)


def test_documented_example(tmp_path):
    example = next(text for text in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "--models" in text)
    example = example.replace("build/cpu/bin", str(BIN)).replace("tests/models", str(MODELS))
    run = subprocess.run(["bash", "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and '"std":0' in run.stdout, run


def test_kills(directory, models):
    """Broker and workers are killed while a job of two models and both together runs: every row once, with its models' bits."""
    rows = [{"ids": ids_bytes([3 + (i * 31 + k) % 90 for k in range(1 + i % 50)]), **[{"model": "a"}, {"model": "b"}, {"models": ["b", "a"]}][i % 3]}
            for i in range(600)]
    plain = [{"ids": row["ids"]} for row in rows]
    broker = serve(directory, models, "ab", ["--max-batch-tokens", 128, "--score-cache", "16M"])
    with broker:
        with broker.client() as client:
            for chunk in range(3):
                client.submit("job", rows[chunk * 200:(chunk + 1) * 200], chunk=chunk, seal=chunk == 2)
        for _ in range(3):
            for pid in broker.worker_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
            broker.kill9()
            broker.start()
        with broker.client() as client:
            found = client.results("job")
            assert sorted(row["i"] for row in found) == list(range(len(rows)))
            each = {name: score(client, plain, model=name) for name in "ab"}  # from the cache, in part
            for row in found:
                i = row["i"]
                expected = [each["a"][i], each["b"][i], [each["b"][i], each["a"][i]]][i % 3]
                assert row["error"] is None and row.get("score", row.get("scores")) == expected, row
    with serve(directory, models, "ba", ["--no-dedupe"]) as broker, broker.client() as client:
        for name in "ab":
            assert score(client, plain, model=name) == each[name]
