"""assay-http before a broker that serves several models: each request gets the scores of the one it names, and of the checkpoint
that it was asked of."""
import json
import threading
import time

import msgpack
import pytest
import zmq
from harness import MODELS, PATIENCE, Broker, wait_until
from http_harness import Http, float32
from test_http_life import counted, many
from test_models import alone, changed_model, serve

TEXTS = [{"text": f"{i} + {i + 3} = {2 * i + 3 + i % 2}"} for i in range(8)]


@pytest.fixture
def models(tmp_path):
    return {"a": MODELS / "demo-reward", "b": changed_model(tmp_path / "b", -0.5), "p": MODELS / "demo-process"}


def score_of(reply):
    return float32(reply["data"][0]["probs"][0])


def test_each_request_gets_its_models_scores(directory, tmp_path, models):
    """96 requests at once of two models in turns: the bits that each model gives alone, in few jobs of each."""
    expected = {name: alone(tmp_path / f"alone-{name}", models, name, TEXTS) for name in "ab"}
    assert expected["a"] != expected["b"]
    bodies = [{"input": TEXTS[i % 8]["text"], **({"model": "ab"[i // 8 % 2]} if i % 3 else {})} for i in range(96)]
    with serve(directory, models, "abp") as broker, Http(tmp_path, broker) as http:
        assert score_of(http.ok("/classify", {"input": TEXTS[0]["text"]})) == expected["a"][0]
        replies = many(http, bodies, clients=48)
        assert [status for status, _ in replies] == [200] * len(bodies)
        for body, (_, reply) in zip(bodies, replies):
            model = body.get("model", "a")
            assert reply["model"] == model
            assert score_of(reply) == expected[model][[row["text"] for row in TEXTS].index(body["input"])]
        assert counted(http, "assay_http_jobs_total") < 72
        assert {'vllm:num_requests_running{model_name="%s"} 0' % name for name in "abp"} <= set(http.get("/metrics")[1].splitlines())
        wait_until(lambda: not broker.sql("select key from jobs"))


def test_models_that_score_otherwise(directory, tmp_path, models):
    """Each model's own pooling, labels and mode count, and its limits."""
    with serve(directory, models, "ap") as broker, Http(tmp_path, broker) as http, broker.client() as client:
        assert "use /pooling" in http.refused("/classify", {"input": "a", "model": "p"})["message"]
        ids = [7, 8, 298, 9, 298]
        [row] = client.call("score", rows=[{"ids": ids}], model="p")["rows"]
        [data] = http.ok("/pooling", {"input": ids, "model": "p"})["data"]
        assert [float32(x[0] if isinstance(x, list) else x) for x in data["data"]] == row["steps"]
        found = {one["name"]: one["mode"] for one in client.call("hello")["models"]}
        for name, path in (("a", "/classify"), ("p", "/pooling")):
            status, headers, _ = http.ask("POST", path, json.dumps({"input": ids, "model": name}), {"Content-Type": "application/json"})
            assert status == 200 and headers["x-assay-score-mode"] == found[name]


def test_names(directory, tmp_path, models):
    with serve(directory, models, "ab") as broker, Http(tmp_path, broker, ["--served-model-name", "rm"]) as http:
        assert [one["id"] for one in json.loads(http.get("/v1/models")[1])["data"]] == ["rm", "b"]
        error = http.refused("/classify", {"input": "a", "model": "a"}, 404)
        assert "`a` does not exist" in error["message"] and "rm, b" in error["message"] and error["param"] == "model"
        assert http.ok("/classify", {"input": "a", "model": "b"})["model"] == "b"
        assert http.ok("/classify", {"input": "a"})["model"] == "rm"


def test_adapters_of_two_models(directory, tmp_path):
    """Adapters with one name need their models' names; each gives what the socket gives."""
    reward, copy, lora = MODELS / "reward", changed_model(tmp_path / "copy", 2, "reward"), MODELS / "lora"
    options = ["--lora", f"a/x={lora / 'reward-half'}", "--lora", f"b/x={lora / 'reward-all'}", "--lora", f"b/only={lora / 'reward-half'}"]
    with serve(directory, {"a": reward, "b": copy}, "ab", options) as broker, Http(tmp_path, broker) as http, broker.client() as client:
        def wanted(model, adapter):
            return client.call("score", rows=[{"ids": [5, 9, 11]}] if adapter is None else [{"ids": [5, 9, 11], "adapter": adapter}], model=model)["rows"][0]["score"]

        names = {"a": ("a", None), "b": ("b", None), "a/x": ("a", "x"), "b/x": ("b", "x"), "only": ("b", "only"), "b/only": ("b", "only")}
        found = {name: score_of(http.ok("/classify", {"input": [5, 9, 11], "model": name})) for name in names}
        assert found == {name: wanted(*of) for name, of in names.items()} and len(set(found.values())) == 5
        listed = json.loads(http.get("/v1/models")[1])["data"]
        assert [(one["id"], one["parent"]) for one in listed] == [("a", None), ("b", None), ("a/x", "a"), ("only", "b"), ("b/x", "b")]
        assert "a/x" in http.refused("/classify", {"input": [5], "model": "x"})["message"]
        reply = http.ok("/classify", {"input_ids": [5, 9, 11], "model": "b", "lora_path": "x"})
        assert float32(reply["embedding"][0]) == found["b/x"]
        assert http.refused("/classify", {"input_ids": [5], "model": "a", "lora_path": "only"}, 404)["param"] == "lora_path"


def test_a_name_of_two_models_is_refused(directory, tmp_path, models):
    with serve(directory, models, "ab") as broker, Http(tmp_path, broker, ["--served-model-name", "b"]) as http:
        assert "several" in http.refused("/classify", {"input": "a", "model": "b"})["message"]
        assert http.ok("/classify", {"input": "a"})


class Reloading:
    """A broker that has one model, gives every row 1, and has loaded another checkpoint than its info says (or will say)."""

    def __init__(self, directory):
        self.digest = self.made = "one"
        self.context, self.stops = zmq.Context(), False
        self.endpoint = f"ipc://{directory}/fake.sock"
        self.thread = threading.Thread(target=self.run)

    def info(self):
        model = {"name": "m", "digest": self.digest, "pooling": {"type": "LAST", "activation": "none"}, "max_len": 512, "n_labels": 1, "adapters": []}
        return {"state": "ready", "started_ms": 7, "now_ms": int(time.time() * 1000), "limits": {"max_rows_per_message": 100, "max_message_bytes": 1 << 20},
                "models": [{"name": "m", "mode": "x", "model": model}], "workers": [{"group": 0, "rank": 0, "model": "m", "state": "ready"}]}

    def answer(self, q):
        if q["op"] == "info":
            return self.info()
        if q["op"] != "score":
            return {"jobs": [], "next": 0}
        rows = [{"i": i, "id": None, "score": 1.0, "n_tokens": 1, "error": None} for i in range(len(q["rows"]))]
        made = {"checkpoint": self.made, "mode": "x"} if self.made else {"made_otherwise": "gone"}
        return {"job": 1, "key": q["key"], "rows": rows, "started_ms": 7, **made}

    def run(self):
        socket = self.context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.bind(self.endpoint)
        while not self.stops:
            if socket.poll(50):
                client, body = socket.recv_multipart()
                q = msgpack.unpackb(body)
                socket.send_multipart([client, msgpack.packb({"v": 1, "id": q["id"], "ok": True, **self.answer(q)}, use_single_float=True)])
        socket.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stops = True
        self.thread.join(20 * PATIENCE)
        self.context.term()


def test_scores_of_another_checkpoint_are_refused(directory):
    """A reply says what its scores are of; those of another checkpoint than the request was decoded under are nobody's."""
    with Reloading(directory) as broker, Http(directory, None, ["--connect", broker.endpoint]) as http:
        assert score_of(http.ok("/classify", {"input": "a"})) == 1
        for made in ("two", None):
            broker.made = made
            status, headers, text = http.ask("POST", "/classify", '{"input": "a"}', {"Content-Type": "application/json"})
            assert status == 503 and int(headers["retry-after"]) >= 1 and "`m`" in json.loads(text)["error"]["message"]
        broker.made = broker.digest = "two"
        assert [http.post("/classify", {"input": "a"})[0] for _ in range(2)] == [503, 200]  # it has asked what there is before it refuses
