"""assay-http's endpoints: the shapes that clients send and read, the socket's scores, and what is refused by name."""
import base64
import json
import pathlib
import shutil
import struct
import tempfile

import pytest
from harness import MODELS, Broker, ids_bytes, wait_until
from http_harness import Http, float32

TEXTS = ["3 + 4 = 7", "3 + 4 = 8", "What is 2 + 2?\n4"]
CHAT = [{"role": "user", "content": "3 + 4 = ?"}, {"role": "assistant", "content": "7"}]


@pytest.fixture(scope="module")
def served():
    """A broker with a reward model, its socket, and assay-http in front of it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="assay-"))
    with Broker(path / "d", model=MODELS / "demo-reward") as broker, broker.client() as client, Http(path, broker) as http:
        yield http, client, broker
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def http(served):
    return served[0]


@pytest.fixture
def score(served):
    """The socket's scores of rows."""
    return lambda *rows: [row["score"] for row in served[1].call("score", rows=list(rows))["rows"]]


def texts(*all_of_them):
    return [{"text": text} for text in all_of_them]


def probs(reply):
    return [float32(row["probs"][0]) for row in reply["data"]]


def test_classify_gives_the_sockets_scores(http, score):
    """vLLM's shape, one text and several, with `use_activation: false` as verl sends it."""
    wanted = score(*texts(*TEXTS))
    reply = http.ok("/classify", {"model": "demo-reward", "input": TEXTS[0], "use_activation": False})
    assert reply["object"] == "list" and reply["model"] == "demo-reward" and reply["id"].startswith("classify-")
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 0
    assert set(reply["data"][-1]) == {"index", "label", "probs", "num_classes"} and reply["data"][0]["num_classes"] == 1
    assert float32(reply["data"][-1]["probs"][-1]) == wanted[0]
    assert probs(http.ok("/v1/classify", {"input": TEXTS})) == wanted


def test_ids_and_messages(http, score):
    ids = [[5, 9, 11, 42], [7, 8]]
    rows = [{"ids": ids_bytes(row)} for row in ids]
    assert probs(http.ok("/classify", {"input": ids})) == score(*rows)
    assert probs(http.ok("/classify", {"input": ids[0]})) == score(rows[0])
    assert probs(http.ok("/classify", {"messages": CHAT})) == score({"messages": CHAT})
    prompted = {"messages": CHAT[:1], "add_generation_prompt": True}
    assert probs(http.ok("/classify", prompted)) == score(prompted)


def test_headers_say_mode_and_job(http, served):
    body = json.dumps({"input": "a"})
    status, headers, text = http.ask("POST", "/classify", body, {"Content-Type": "application/json", "X-Request-Id": "mine-7"})
    assert status == 200 and json.loads(text)["id"] == "classify-mine-7"
    assert headers["x-assay-score-mode"] == served[1].call("hello")["mode"] and int(headers["x-assay-job"]) > 0


def test_jobs_are_purged(http, served):
    http.ok("/classify", {"input": TEXTS})
    wait_until(lambda: not served[2].sql("select key from jobs where key like 'assay-http/%'"))


@pytest.mark.parametrize("body,param", [
    ({"input": "a", "dimensions": 4}, "dimensions"),
    ({"input": "a", "chat_template": "{{ messages }}"}, "chat_template"),
    ({"messages": CHAT, "continue_final_message": True}, "continue_final_message"),
    ({"messages": CHAT, "add_special_tokens": True}, "add_special_tokens"),
    ({"input": "a", "add_generation_prompt": True}, "add_generation_prompt"),
    ({"input": "a", "use_activaton": False}, "use_activaton"),
    ({"input": "a", "padding": "max_length"}, "padding"),
    ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"input": "a", "activation": "tanh"}, "activation"),
    ({"input": []}, "input"),
    ({"input": ["a", [1]]}, "input[1]"),
    ({"input": [1, "a"]}, "input"),
    ({"input": {"a": 1}}, "input"),
    ({"input": "a", "messages": CHAT}, "input"),
    ({"messages": "a"}, "messages"),
    ({"text": "a", "image_data": "x"}, "image_data"),
    ({}, "input"),
])
def test_what_would_change_a_score_is_refused_by_name(http, body, param):
    error = http.refused("/classify", body)
    assert error["param"] == param and error["type"] == "BadRequestError" and error["message"]


def test_fields_that_change_nothing_are_ignored(http, score):
    body = {"input": "a", "user": "u", "request_id": "r", "priority": 3, "dimensions": None, "chat_template": None, "padding": "do_not_pad"}
    assert probs(http.ok("/classify", body)) == score({"text": "a"})


def test_another_model_is_404(http):
    error = http.refused("/classify", {"input": "a", "model": "gpt-4"}, 404)
    assert error["param"] == "model" and error["type"] == "NotFoundError" and "gpt-4" in error["message"]


def test_a_failed_row_fails_its_request_by_name(http):
    assert "bad_token" in http.refused("/classify", {"input": [[1, 2], [1, 10**7]]})["message"]
    assert "no_tokens" in http.refused("/classify", {"input": ""})["message"]
    assert "too_long" in http.refused("/classify", {"input": [[1] * 2000]})["message"]


def test_truncation(http, score):
    cut = {"input": [list(range(1, 90))], "truncate_prompt_tokens": 20, "truncation_side": "left"}
    assert probs(http.ok("/classify", cut)) == score({"ids": list(range(70, 90))})
    del cut["truncation_side"]
    assert probs(http.ok("/classify", cut)) == score({"ids": list(range(1, 21))})


def test_activations(http, score):
    rows = [{"text": "a", "pool": {"activation": "sigmoid"}}]
    assert probs(http.ok("/classify", {"input": "a", "activation": "sigmoid"})) == score(*rows)
    assert "activation" in http.refused("/classify", {"input": "a", "use_activation": True})["message"]  # config.json names none


def test_pages(http, served):
    assert http.get("/health") == (200, '{"status":"ok"}') and http.get("/ready")[0] == 200
    [model] = json.loads(http.get("/v1/models")[1])["data"]
    assert model["id"] == "demo-reward" and model["object"] == "model" and model["max_model_len"] == served[2].model["max_len"]
    assert json.loads(http.get("/version")[1])["version"]


def test_methods_and_paths(http):
    status, headers, text = http.ask("GET", "/classify")
    assert status == 405 and headers["allow"] == "POST" and json.loads(text)["error"]["code"] == 405
    assert http.ask("POST", "/health", "{}", {"Content-Type": "application/json"})[0] == 405
    assert http.get("/v2/nothing")[0] == 404
    assert http.ask("POST", "/classify", "input=a", {"Content-Type": "application/x-www-form-urlencoded"})[0] == 415


def test_sglangs_classify(http, score):
    wanted = score(*texts(*TEXTS))
    reply = http.ok("/classify", {"text": TEXTS})
    assert [float32(one["embedding"][0]) for one in reply] == wanted and reply[0]["meta_info"]["prompt_tokens"] > 0
    assert float32(http.ok("/classify", {"text": TEXTS[0]})["embedding"][0]) == wanted[0]  # one text, one object
    assert [len(one["embedding"]) for one in http.ok("/classify", {"input_ids": [[1, 2], [3]]})] == [1, 1]


def test_embeddings(http, score):
    """verl beside SGLang reads the last embedding's last value; OpenAI's package asks for base64."""
    wanted = score(*texts(*TEXTS))
    reply = http.ok("/v1/embeddings", {"model": "demo-reward", "input": TEXTS[0]})
    assert float32(reply["data"][-1]["embedding"][-1]) == wanted[0] and reply["data"][0]["object"] == "embedding"
    reply = http.ok("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"})
    assert [struct.unpack("<f", base64.b64decode(one["embedding"]))[0] for one in reply["data"]] == wanted
    assert http.refused("/v1/embeddings", {"input": "a", "encoding_format": "bytes"})["param"] == "encoding_format"


def test_pooling(http, served, score):
    """ALL by default, as in vLLM; another by `pooling_type`."""
    [row] = served[1].call("score", rows=[{"text": TEXTS[0], "pool": {"type": "ALL"}}])["rows"]
    [data] = [one["data"] for one in http.ok("/pooling", {"input": TEXTS[0]})["data"]]
    assert [float32(value) for [value] in data] == row["steps"] and len(data) == row["n_tokens"]
    [data] = [one["data"] for one in http.ok("/pooling", {"input": TEXTS[0], "encoding_format": "base64"})["data"]]
    assert list(struct.unpack(f"<{row['n_tokens']}f", base64.b64decode(data))) == row["steps"]
    last = http.ok("/pooling", {"input": TEXTS[0], "pooling_type": "LAST"})["data"][0]["data"]
    assert [float32(x) for x in last] == score(*texts(TEXTS[0]))
    assert http.refused("/pooling", {"input": "a", "task": "embed"})["param"] == "task"


def test_openrlhf(http, score):
    body = {"query": TEXTS, "prompts": ["3"] * 3, "labels": [None] * 3}
    reply = http.ok("/get_reward", body)
    assert [float32(x) for x in reply["rewards"]] == score(*[{"text": t, "add_special_tokens": False} for t in TEXTS])
    assert reply["scores"] == reply["rewards"] and reply["extra_logs"] == {}
    assert http.refused("/get_reward", {"query": [[1, 2]]})["param"] == "query"


def test_slime(http, score):
    body = {"prompt": "3 + 4 = ?", "response": "7", "label": "7"}
    [wanted] = score({"prompt": "3 + 4 = ?", "response": "7"})
    assert float32(http.ok("/rm", body)) == wanted
    assert float32(http.ok("/rm", {**body, "prompt": CHAT[:1]})) == wanted
    written = "<|im_start|>user\n3 + 4 = ?<|im_end|>\n<|im_start|>assistant\n"
    error = http.refused("/rm", {"prompt": written, "response": "7<|im_end|>"})
    assert error["param"] == "prompt" and "prompt=text" in error["message"]
    assert float32(http.ok("/rm?prompt=text", {"prompt": written, "response": "7<|im_end|>"})) == \
        score({"text": written + "7<|im_end|>", "add_special_tokens": False})[0]


@pytest.mark.parametrize("path, param", [
    ("/rm?promt=text", "promt"), ("/rm?Prompt=text", "Prompt"), ("/rm?prompt=text&prompt=chat", "prompt"), ("/rm?prompt", "prompt"),
    ("/rm?prompt=te%00xt", "prompt"), ("/rm?prompt=other", "prompt"), ("/rm?prompt=text&truncate_prompt_tokens=1", "truncate_prompt_tokens"),
])
def test_arguments_behind_the_path(http, path, param):
    assert http.refused(path, {"prompt": "3 + 4 = ?", "response": "7"})["param"] == param


def test_arguments_that_would_change_a_score(http):
    assert http.refused("/classify?use_activation=true", {"input": "a"})["param"] == "use_activation"
    assert http.refused("/rm?prompt=text", {"prompt": CHAT[:1], "response": "7"})["param"] == "prompt"
    assert http.get("/metrics?a=b")[0] == 200


def test_a_pair_needs_a_recipe(http):
    assert "recipe" in http.refused("/score", {"text_1": "a", "text_2": "b"})["message"]


def test_openais_package(http, score):
    """The package asks for base64 and decodes it; where it is installed, it reads the same scores, models and errors."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{http.port}/v1", api_key="none", max_retries=0)
    reply = client.embeddings.create(model="demo-reward", input=TEXTS)
    assert [float32(one.embedding[0]) for one in reply.data] == score(*texts(*TEXTS)) and reply.usage.prompt_tokens > 0
    assert [one.id for one in client.models.list()] == ["demo-reward"]
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="demo-reward", input="a", dimensions=7)
