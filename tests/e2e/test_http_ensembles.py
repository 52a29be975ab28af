"""Ensembles over HTTP: a request that names several models gets their mean, beside each one's own score, bit for bit what the socket gives."""
import json
import shutil
import statistics
import struct
import tempfile

import pytest
from harness import MODELS, changed_model, wait_until
from http_harness import Http, float32
from test_cli import run
from test_http_batches import Batches, lines
from test_http_life import many
from test_http_models import Reloading
from test_models import serve

TEXTS = [f"{i} + {i + 3} = {2 * i + 3 + i % 2}" for i in range(12)]


@pytest.fixture
def models(tmp_path):
    return {"a": MODELS / "demo-reward", "b": changed_model(tmp_path / "b", -0.5), "p": MODELS / "demo-process"}


def of_socket(broker, rows, *names):
    with broker.client() as client:
        found = client.call("score", rows=rows, models=list(names), timeout_ms=100_000, timeout=120)["rows"]
    assert all(row["error"] is None for row in found), found
    return found


def check(item, row, score):
    """An item of a reply against the socket's row, whose mean is Python's."""
    assert float32(score) == row["mean"] == float32(statistics.fmean(row["scores"]))
    assert [float32(x) for x in item["scores"]] == row["scores"] and float32(item["std"]) == row["std"]


def test_classify(directory, tmp_path, models):
    with serve(directory, models, "ab") as broker, Http(tmp_path, broker) as http:
        expected = of_socket(broker, [{"text": text} for text in TEXTS], "b", "a")
        for names in ({"models": ["b", "a"]}, {"model": "b,a"}):
            reply = http.ok("/classify", {"input": TEXTS, **names})
            assert reply["model"] == "b,a" and reply["models"] == ["b", "a"]
            for item, row in zip(reply["data"], expected):
                (mean,) = item["probs"]
                check(item, row, mean)
                assert item["num_classes"] == 1 and item["label"] == "LABEL_0"
            assert reply["usage"]["prompt_tokens"] == sum(row["n_tokens"] for row in expected)
        with broker.client() as client:
            modes = [one["mode"] for one in client.call("hello")["models"]]
        _, headers, _ = http.ask("POST", "/v1/classify", json.dumps({"input": "a", "models": ["a", "b"]}), {"Content-Type": "application/json"})
        assert headers["x-assay-score-mode"] == ", ".join(modes)
        (row,) = of_socket(broker, [{"text": TEXTS[0], "pool": {"activation": "sigmoid"}}], "a", "b")
        (item,) = http.ok("/classify", {"input": TEXTS[0], "models": ["a", "b"], "activation": "sigmoid"})["data"]
        check(item, row, item["probs"][0])
        assert all(0 < x < 1 for x in row["scores"])


def test_clients_that_send_only_a_model(directory, tmp_path, models):
    """Every family takes it, and has the mean where it has a model's score."""
    with serve(directory, models, "ab") as broker, Http(tmp_path, broker) as http:
        text, bare, talk = of_socket(broker, [{"text": TEXTS[0]}, {"text": TEXTS[0], "add_special_tokens": False},
                                              {"prompt": "3 + 4 = ?", "response": "7"}], "a", "b")
        name = {"model": "a,b"}
        assert float32(http.ok("/v1/embeddings", {"input": TEXTS[0], **name})["data"][0]["embedding"][0]) == text["mean"]
        assert float32(http.ok("/pooling", {"input": TEXTS[0], "pooling_type": "LAST", **name})["data"][0]["data"][0]) == text["mean"]
        assert float32(http.ok("/classify", {"text": TEXTS[0], **name})["embedding"][0]) == text["mean"]
        reply = http.ok("/get_reward", {"query": [TEXTS[0]], **name})
        assert [float32(x) for x in reply["rewards"]] == [float32(x) for x in reply["scores"]] == [bare["mean"]]
        assert float32(http.ok("/rm", {"prompt": "3 + 4 = ?", "response": "7", **name})) == talk["mean"]


def test_among_other_requests(directory, tmp_path, models):
    """Many at once, of one model and of two: each the bits that it has alone."""
    with serve(directory, models, "ab") as broker, Http(tmp_path, broker) as http:
        expected = of_socket(broker, [{"text": text} for text in TEXTS], "a", "b")
        bodies = [{"input": TEXTS[i % 12], **({"models": ["a", "b"]}, {"model": "a"}, {"model": "b"})[i % 3]} for i in range(72)]
        for i, (status, reply) in enumerate(many(http, bodies, clients=36)):
            assert status == 200, reply
            row, (found,) = expected[i % 12], reply["data"][0]["probs"]
            assert float32(found) == (row["mean"], row["scores"][0], row["scores"][1])[i % 3]
        wait_until(lambda: not broker.sql("select key from jobs where key like 'assay-http/%'"))


def scaled(to, factor):
    """The reranker with another last norm."""
    shutil.copytree(MODELS / "recipe-qwen3", to)
    data = bytearray((to / "model.safetensors").read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    tensor = json.loads(data[8:8 + size])["model.norm.weight"]
    assert tensor["dtype"] == "BF16"  # the upper half of a float32
    begin, end = (8 + size + offset for offset in tensor["data_offsets"])
    values = struct.unpack(f"<{(end - begin) // 2}f", b"".join(b"\0\0" + data[at:at + 2] for at in range(begin, end, 2)))
    data[begin:end] = b"".join(struct.pack("<f", factor * x)[2:] for x in values)
    (to / "model.safetensors").write_bytes(data)
    return to


def test_rerankers(directory, tmp_path):
    query, documents = "What is 3 + 4?", ["7", "It is 8.", "Rivers run to the sea.", "3 + 4 = 7"]
    models = {"x": MODELS / "recipe-qwen3", "y": scaled(tmp_path / "y", -2)}
    with serve(directory, models, "xy", ["--recipe", "qwen3-reranker"]) as broker, Http(tmp_path, broker) as http:
        rows = of_socket(broker, [{"query": query, "document": document} for document in documents], "x", "y")
        assert rows[0]["scores"][0] != rows[0]["scores"][1]
        for item, row in zip(http.ok("/score", {"text_1": query, "text_2": documents, "models": ["x", "y"]})["data"], rows):
            check(item, row, item["score"])
        reply = http.ok("/rerank", {"query": query, "documents": documents, "models": ["x", "y"], "top_n": 3})
        assert reply["models"] == ["x", "y"] and reply["model"] == "x,y"
        order = sorted(range(4), key=lambda k: (-rows[k]["mean"], k))[:3]
        assert [item["index"] for item in reply["results"]] == order
        for item in reply["results"]:
            check(item, rows[item["index"]], item["relevance_score"])


def test_names(directory, tmp_path):
    """Those that --served-model-name gave, one with a comma too, and adapters."""
    reward, lora = shutil.copytree(MODELS / "reward", tmp_path / "reward"), MODELS / "lora"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODELS / "demo-reward" / name, reward)
    with serve(directory, {"a": reward, "b": MODELS / "demo-reward"}, "ab", ["--lora", f"a/x={lora / 'reward-half'}"]) as broker, \
            Http(tmp_path, broker, ["--served-model-name", "rm", "--served-model-name", "one,name"]) as http:
        (row,) = of_socket(broker, [{"text": TEXTS[0]}], "a/x", "b", "a")
        reply = http.ok("/classify", {"input": TEXTS[0], "models": ["x", "b", "one,name"]})
        check(reply["data"][0], row, reply["data"][0]["probs"][0])
        assert reply["models"] == ["a/x", "b", "a"] and len(set(row["scores"])) == 3
        (alone,) = http.ok("/classify", {"input": TEXTS[0], "model": "one,name"})["data"]
        assert float32(alone["probs"][0]) == row["scores"][2] and "scores" not in alone


@pytest.mark.parametrize("body,status,words", [
    ({"models": ["a"]}, 400, "2 to 8 names"), ({"models": list("aaaaaaaaa")}, 400, "2 to 8 names"), ({"models": "a,b"}, 400, "2 to 8 names"),
    ({"models": ["a", 7]}, 400, "names that are not empty"), ({"models": ["a", ""]}, 400, "not empty"), ({"models": ["a", "b\0"]}, 400, "NUL"), ({"model": "a,"}, 400, "not empty"),
    ({"models": ["a", "b", "a"]}, 400, "different models"), ({"models": ["a", "no"]}, 404, "`no` does not exist"),
    ({"model": "a,no"}, 404, "`no` does not exist"), ({"models": ["a", "b"], "model": "a"}, 400, "neither `model`"),
    ({"models": ["a", "p"]}, 400, "use /pooling"), ({"models": ["a", "b"], "truncate_prompt_tokens": -1}, 400, "max_length"),
    ({"models": ["a", "b"], "input": 7}, 400, "input"), ({"models": {}}, 400, "2 to 8 names")])
def test_what_is_refused(shared, body, status, words):
    error = shared.refused("/classify", {"input": "a", **body}, status)
    assert words in error["message"], error


def test_steps_and_tokens_are_refused(shared):
    for more in ({}, {"model": "a,p"}, {"pooling_type": "ALL"}):
        assert "models" in shared.refused("/pooling", {"input": "a", "model": "a,b", **more})["message"]
    assert "lora_path" in shared.refused("/classify", {"text": "a", "models": ["a", "b"], "lora_path": "x"})["message"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared")
    models = {"a": MODELS / "demo-reward", "b": changed_model(path / "b", -0.5), "p": MODELS / "demo-process"}
    with tempfile.TemporaryDirectory(prefix="assay-") as data, serve(f"{data}/d", models, "abp") as broker, Http(path, broker) as http:
        yield http


class ReloadingTwo(Reloading):
    """It has two models, and has loaded another checkpoint of the second, about which a reply to `score` says nothing."""
    second = "one"

    def info(self):
        info = super().info()
        model = {**info["models"][0]["model"], "name": "n", "digest": self.second}
        return {**info, "models": [*info["models"], {"name": "n", "mode": "x", "model": model}],
                "workers": [{**worker, "model": name} for worker in info["workers"] for name in "mn"]}

    def answer(self, q):
        reply = super().answer(q)
        if q["op"] == "score":
            self.second = self.then
            for row, asked in zip(reply["rows"], q["rows"]):
                row |= {"scores": [1.0, 3.0], "mean": 2.0, "std": 1.0, "models": asked["models"]}
                del row["score"]
        return reply


def test_scores_of_another_checkpoint_are_refused(directory):
    with ReloadingTwo(directory) as broker, Http(directory, None, ["--connect", broker.endpoint]) as http:
        broker.then = "one"
        assert http.ok("/classify", {"input": "a", "models": ["m", "n"]})["data"][0]["probs"] == [2]
        broker.then = "two"
        status, reply = http.post("/classify", {"input": "a", "models": ["m", "n"]})
        assert status == 503 and "`n`" in reply["error"]["message"]
        assert http.ok("/classify", {"input": "a", "models": ["m", "n"]})["data"][0]["scores"] == [1, 3]


def test_batches(directory, tmp_path, models):
    """Of lines that name the same models; their bodies are those of the endpoint."""
    bodies = [{"input": text, "models": ["a", "b"]} for text in TEXTS[:3]] + [{"input": TEXTS[3], "model": "a,b"}]
    with serve(directory, models, "ab") as broker, Batches(tmp_path, broker) as http:
        batch = http.wait(http.begin(lines(bodies)))
        assert batch["status"] == "completed" and batch["request_counts"]["completed"] == 4
        found = {line["custom_id"]: line["response"]["body"] for line in map(json.loads, http.content(batch["output_file_id"]).splitlines())}
        for k, body in enumerate(bodies):
            reply = http.ok("/classify", body)
            assert {key: found[f"r{k}"][key] for key in ("data", "models", "model", "usage")} == {key: reply[key] for key in ("data", "models", "model", "usage")}
        for other in ({"models": ["b", "a"]}, {"model": "a"}, {}):
            failed = http.wait(http.begin(lines([bodies[0], {"input": "a", **other}])))
            assert failed["status"] == "failed" and failed["errors"]["data"][0]["code"] == "mismatched_model"


def test_a_batch_whose_second_model_is_another(directory, tmp_path, models):
    """It waits, and goes on with the checkpoints that it was begun with, whichever process was killed."""
    bodies = [{"input": [[k % 90, 5, 7, k // 90] * 60], "models": ["a", "b"]} for k in range(200)]
    options, other = ["--max-batch-tokens", 512, "--threads", 1], {**models, "b": changed_model(tmp_path / "other", 3)}
    broker = serve(directory / "d", models, "ab", options).start()
    http = Batches(tmp_path, broker)
    http.start()
    batch = http.begin(lines(bodies))
    wait_until(lambda: http.batch(batch)["request_counts"]["completed"] > 0)
    for restarts in (True, False):
        broker.kill9()
        if restarts:
            http.kill9()
        broker = serve(directory / "d", other, "ab", options).start()
        if restarts:
            http.start()
        held = wait_until(lambda: (b := http.batch(batch))["errors"] and b)
        assert held["status"] == "in_progress" and held["errors"]["data"][0]["code"] == "held"
        broker.kill9()
        broker = serve(directory / "d", models, "ab", options).start()
    done = http.wait(batch, 90)
    answers, errors = http.output(done)
    assert done["status"] == "completed" and not errors
    expected = of_socket(broker, [{"ids": body["input"][0]} for body in bodies], "a", "b")
    for k, row in enumerate(expected):
        (item,) = answers[f"r{k}"]["response"]["body"]["data"]
        check(item, row, item["probs"][0])
    http.stop()
    broker.stop()


def test_command_line(directory, tmp_path, models):
    """assay score --format openai-batch: the bodies are those of HTTP."""
    requests = [("/v1/classify", {"input": TEXTS[:2], "models": ["a", "b"]}), ("/rm", {"prompt": "3 + 4 = ?", "response": "7", "model": "b,a"}),
                ("/v1/classify", {"input": TEXTS[0]}), ("/v1/classify", {"input": TEXTS[0], "models": ["a", "no"]})]
    rows = tmp_path / "in.jsonl"
    rows.write_text("".join(json.dumps({"custom_id": f"r{k}", "method": "POST", "url": url, "body": body}) + "\n" for k, (url, body) in enumerate(requests)))
    with serve(directory, models, "ab") as broker, Http(tmp_path, broker) as http:
        done = run("score", "--format", "openai-batch", rows, tmp_path / "out", "--connect", broker.endpoint)
        assert done.returncode == 1, done.stderr
        found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
        assert [line["response"]["status_code"] for line in found] == [200, 200, 200, 404]
        for line, (url, body) in list(zip(found, requests))[:3]:
            mine, theirs = line["response"]["body"], http.ok(url, body)
            assert mine == theirs if not isinstance(mine, dict) else {**mine, "id": 0, "created": 0} == {**theirs, "id": 0, "created": 0}
