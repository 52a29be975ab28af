"""assay score --format openai-batch: lines of requests, as vLLM's run-batch takes and answers them, scored durably."""
import base64
import json
import re
import struct
import subprocess

import pytest
from harness import DEMO, MODELS, PATIENCE, ROOT, Broker, ids_bytes, wait_until
from http_harness import Http, float32
from test_cli import ASSAY, rows_done, run
from test_models import serve

REWARD = MODELS / "demo-reward"


def write(path, requests):
    path.write_text("".join(json.dumps({"custom_id": f"r{k}", "method": "POST", "url": url, "body": body}) + "\n" for k, (url, body) in enumerate(requests)))
    return path


def batch(rows, output, *more, model=REWARD):
    return run("score", "--format", "openai-batch", rows, output, "--model", model, "--threads", "1", *more)


def answers(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert list(line) == ["id", "custom_id", "response", "error"] and list(line["response"]) == ["status_code", "request_id", "body"]
        assert (line["error"] is None) == (line["response"]["status_code"] == 200) == (line["response"]["body"] is not None), line
    assert len({line["id"] for line in lines}) == len(lines)
    return lines


def without_ids(body):
    return {key: value for key, value in body.items() if key not in ("id", "created")}


def bodies(path):
    return [without_ids(line["response"]["body"]) for line in answers(path)]


def test_bodies_are_those_of_http(directory):
    """Every family's body is what the same request gets from assay-http, value for value; lines stay in their order."""
    requests = [
        ("/v1/classify", {"input": "3 + 4 = 7"}),
        ("/classify", {"input": [f"{k} + {k}" for k in range(600)], "model": "demo-reward", "use_activation": False}),
        ("/v1/embeddings", {"input": [[5, 9, 11], [7, 8]], "encoding_format": "base64"}),
        ("/v1/pooling", {"input": ["3 + 4 = 7", "a"]}),
        ("/pooling", {"input": "3 + 4 = 7", "pooling_type": "LAST"}),
        ("/v1/classify", {"messages": [{"role": "user", "content": "3 + 4 = ?"}, {"role": "assistant", "content": "7"}]}),
        ("/v1/classify", {"text": ["a", "b"]}),
        ("/get_reward", {"query": ["3 + 4 = 7"], "prompts": ["3 + 4 ="], "labels": ["7"]}),
        ("/rm", {"prompt": "3 + 4 = ?", "response": "7"}),
    ]
    rows = write(directory / "in.jsonl", requests)
    done = batch(rows, directory / "out", "--served-model-name", "other,demo-reward")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = answers(directory / "out")
    assert [line["custom_id"] for line in lines] == [f"r{k}" for k in range(len(requests))]
    with Broker(directory / "d", model=REWARD) as broker, Http(directory, broker, ["--served-model-name", "other", "--served-model-name", "demo-reward"]) as http:
        for (url, body), line in zip(requests, lines):
            found, wanted = line["response"]["body"], http.ok(url, body)
            if url == "/v1/classify" and "text" in body:  # SGLang's reply has an id in each
                found, wanted = ([one["embedding"] for one in reply] for reply in (found, wanted))
            if isinstance(wanted, dict):
                assert url == "/get_reward" or found["id"] == line["response"]["request_id"]
                found, wanted = without_ids(found), without_ids(wanted)
            assert found == wanted
    [bits] = struct.unpack("<1f", base64.b64decode(lines[2]["response"]["body"]["data"][0]["embedding"]))
    assert bits != 0 and len(lines[1]["response"]["body"]["data"]) == 600
    assert not (directory / "out.assay").exists()


def test_a_reranker(directory):
    """vLLM's lines: /score by several names, /rerank; a url counts by its last word."""
    query, documents = "What is 3 + 4?", ["7", "It is 8.", "Rivers run to the sea."]
    rows = write(directory / "in.jsonl", [
        ("/v1/score", {"model": "m", "text_1": query, "text_2": documents}),
        ("/v1/score", {"queries": query, "documents": documents[1]}),
        ("/any/rerank", {"query": query, "documents": documents}),
        ("/rerank", {"query": query, "documents": documents, "top_n": 1, "return_documents": False}),
    ])
    done = batch(rows, directory / "out", "--served-model-name", "m", "--recipe", "qwen3-reranker", model=MODELS / "recipe-qwen3")
    assert done.returncode == 0, done.stderr
    first, second, ranked, best = bodies(directory / "out")
    scores = [one["score"] for one in first["data"]]
    assert len(scores) == 3 and second["data"][0]["score"] == scores[1] and first["model"] == "m"
    order = sorted(range(3), key=lambda k: -scores[k])
    assert [(one["index"], one["relevance_score"], one["document"]["text"]) for one in ranked["results"]] == [(k, scores[k], documents[k]) for k in order]
    assert best["results"] == [{"index": order[0], "relevance_score": scores[order[0]]}]


def test_lines_that_fail(directory):
    """Each is a line with its status and error, in its place; the others are scored; the exit code is 1, and the same command tries again."""
    good = ("/v1/classify", {"input": "a"})
    rows = write(directory / "in.jsonl", [
        good, ("/v1/classify", {"input": []}), ("/v1/chat/completions", {"messages": []}), ("/v1/classify", {"input": "a", "model": "gpt-4"}),
        ("/v1/classify", {"input": [[1, 2], [999999]]}), ("/v1/classify", {"input": "a", "dimensions": 3}), ("/v1/score", {"text_1": "a", "text_2": "b"}),
        ("/v1/classify", {"input": ["a"] * 10001}), ("/v1/classify", "text"), good])
    extra = ['{"custom_id": "x", "method": "GET", "url": "/v1/classify", "body": {"input": "a"}}', '{"custom_id": 7, "method": "POST", "url": "/v1/classify", "body": {}}',
             '{"custom_id": "y", "url": "/v1/classify", "body": {}, "id": 1}', "{nonsense", "[1]", '{"custom_id": "z", "custom_id": "z"}']
    rows.write_bytes(b"\xef\xbb\xbf" + rows.read_bytes() + "\n\n".join(extra).encode() + b"\r\n \n")
    for _ in range(2):
        done = batch(rows, directory / "out")
        assert done.returncode == 1 and "16 requests, 14 failed" in done.stderr and 'the first is request "r1"' in done.stderr, done.stderr
        lines = answers(directory / "out")
        status = [line["response"]["status_code"] for line in lines]
        assert status == [200, 400, 400, 404, 400, 400, 400, 413, 400, 200, 400, 400, 400, 400, 400, 400]
        assert [line["custom_id"] for line in lines] == [f"r{k}" for k in range(10)] + ["x", None, "y", None, None, None]
        errors = [line["error"]["error"] for line in lines if line["error"]]
        assert all(set(error) == {"message", "type", "param", "code"} and error["message"] for error in errors)
        assert [error["code"] for error in errors] == [code for code in status if code != 200]
        assert errors[3]["message"].startswith("row 1 of 2: bad_token") and errors[1]["param"] == "url" and errors[4]["param"] == "dimensions"
        assert "line 17" in errors[11]["message"]
        assert lines[0]["response"]["body"]["data"] == lines[9]["response"]["body"]["data"]
    assert (directory / "out.assay").exists()


def test_a_kill_in_the_middle(directory):
    """The same command goes on: what was scored is not scored again, and each line is there once, with the scores of an undisturbed run."""
    rows = write(directory / "in.jsonl", [("/v1/classify", {"input": [[1 + (k * j + i) % 97 for j in range(30)] for i in range(1 + k % 3)]}) for k in range(700)])
    command = [ASSAY, "score", "--format", "openai-batch", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1"]
    killed = 0
    for least in (1, 400):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: rows_done(directory / "out.assay/assay.db") >= least or process.poll() is not None, 60)
        killed += process.poll() is None
        process.kill()
        process.wait(60 * PATIENCE)
    assert killed > 0
    if (directory / "out.assay").exists():
        done_before = rows_done(directory / "out.assay/assay.db")
        assert done_before > 0
    done = run(*command[1:])
    assert done.returncode == 0, done.stderr
    lines = answers(directory / "out")
    assert [line["custom_id"] for line in lines] == [f"r{k}" for k in range(700)] and not (directory / "out.assay").exists()
    assert run("score", "--format", "openai-batch", rows, directory / "alone", "--model", DEMO).returncode == 0
    assert [body["data"] for body in bodies(directory / "alone")] == [body["data"] for body in bodies(directory / "out")]
    before = (directory / "out").read_bytes()
    done = run(*command[1:])
    assert done.returncode == 0 and "is there and whole" in done.stderr and (directory / "out").read_bytes() == before


def test_a_broker_with_several_models(directory):
    """Lines name their models; each goes to its own, and one that names none to the first."""
    with serve(directory / "d", {"one": REWARD, "two": DEMO}, ["one", "two"]) as broker, broker.client() as client:
        rows = write(directory / "in.jsonl", [("/v1/classify", {"input": [1, 2, 3], **more}) for more in ({}, {"model": "two"}, {"model": "one"}, {"model": "three"})])
        done = run("score", "--format", "openai-batch", rows, directory / "out", "--data", broker.data)
        assert done.returncode == 1, done.stderr
        wanted = [client.call("score", model=model, rows=[{"ids": ids_bytes([1, 2, 3])}])["rows"][0]["score"] for model in ("one", "two")]
        lines = answers(directory / "out")
        assert [float32(line["response"]["body"]["data"][0]["probs"][0]) for line in lines[:3]] == [wanted[0], wanted[1], wanted[0]]
        assert wanted[0] != wanted[1] and lines[3]["response"]["status_code"] == 404


@pytest.mark.parametrize("more,words", [
    (["--keep-input"], "--keep-input: expected without --format openai-batch"),
    (["--pool", "LAST"], "--pool: expected without"),
    (["--truncate"], "--truncate: expected without"),
    (["--format", "json"], "--format: expected one of rows openai-batch"),
    (["--format", "rows", "--served-model-name", "a"], "--served-model-name: expected with --format openai-batch"),
    (["-o", "other"], "unexpected argument"),
    (["--served-model-name", ",".join("abcdefghijklmnopqrst")], "--served-model-name: expected at most 15 names"),
])
def test_options_that_do_not_go_with_it(directory, more, words):
    rows = write(directory / "in.jsonl", [("/v1/classify", {"input": "a"})])
    done = batch(rows, directory / "out", *more)
    assert done.returncode in (64, 65) and words in done.stderr, done.stderr
    assert not (directory / "out").exists()


def test_documented_example(directory):
    example = next(text for text in re.findall(r"```sh\n(.*?)```", (ROOT / "schema/ROWS.md").read_text(), re.S) if "openai-batch" in text)
    example = example.replace("build/cpu/bin/assay", str(ASSAY)).replace("tests/models", str(MODELS))
    done = subprocess.run(["bash", "-ec", example], cwd=directory, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 0, done.stderr
    assert [len(body["data"]) for body in bodies(directory / "answered.jsonl")] == [1, 2]
