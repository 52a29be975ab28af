"""assay-http with a reranker's recipe: vLLM's /score, and /rerank as Cohere's and Jina's clients send it."""
import json
import pathlib
import shutil
import tempfile

import pytest
from harness import MODELS, ROOT, Broker
from http_harness import Http, float32

VECTOR = json.loads((ROOT / "tests/vectors/recipes/qwen3-reranker.json").read_text())
QUERY, DOCUMENTS = "What is 3 + 4?", ["7", "It is 8.", "Rivers run to the sea.", "3 + 4 = 7"]


@pytest.fixture(scope="module")
def served():
    path = pathlib.Path(tempfile.mkdtemp(prefix="assay-"))
    with Broker(path / "d", model=MODELS / VECTOR["model"], options=["--recipe", "qwen3-reranker"]) as broker, broker.client() as client, \
            Http(path, broker) as http:
        yield http, client
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def http(served):
    return served[0]


@pytest.fixture
def wanted(served):
    rows = [{"query": QUERY, "document": document} for document in DOCUMENTS]
    return [row["score"] for row in served[1].call("score", rows=rows)["rows"]]


@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_score(http, wanted, names, path):
    reply = http.ok(path, {names[0]: QUERY, names[1]: DOCUMENTS})
    assert [float32(one["score"]) for one in reply["data"]] == wanted
    assert [(one["index"], one["object"]) for one in reply["data"]] == [(k, "score") for k in range(4)]
    assert reply["object"] == "list" and reply["usage"]["prompt_tokens"] > 0
    reply = http.ok(path, {names[0]: [QUERY] * 4, names[1]: DOCUMENTS})
    assert [float32(one["score"]) for one in reply["data"]] == wanted


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank(http, wanted, path):
    reply = http.ok(path, {"query": QUERY, "documents": DOCUMENTS})
    order = sorted(range(4), key=lambda k: -wanted[k])
    assert [one["index"] for one in reply["results"]] == order
    assert [float32(one["relevance_score"]) for one in reply["results"]] == [wanted[k] for k in order]
    assert [one["document"] for one in reply["results"]] == [{"text": DOCUMENTS[k], "multi_modal": None} for k in order]
    assert reply["usage"]["total_tokens"] > 0 and reply["id"].startswith("rerank-")
    jina = {"model": VECTOR["model"], "query": QUERY, "documents": [{"text": d} for d in DOCUMENTS], "top_n": 2, "return_documents": False}
    reply = http.ok(path, jina)
    assert [set(one) for one in reply["results"]] == [{"index", "relevance_score"}] * 2 and [one["index"] for one in reply["results"]] == order[:2]


def test_equal_documents_keep_their_order(http):
    assert [one["index"] for one in http.ok("/rerank", {"query": QUERY, "documents": ["a"] * 5})["results"]] == list(range(5))


def test_an_instruction(http, served):
    row = {"query": QUERY, "document": "7", "instruction": "Find a prime."}
    [other] = [one["score"] for one in served[1].call("score", rows=[row])["rows"]]
    for form in ({"instruction": "Find a prime."}, {"instruct": "Find a prime."}, {"chat_template_kwargs": {"instruction": "Find a prime."}}):
        assert float32(http.ok("/rerank", {"query": QUERY, "documents": ["7"], **form})["results"][0]["relevance_score"]) == other


def test_the_vectors_of_the_reference(http):
    for row in VECTOR["rows"]:
        if set(row["row"]) == {"query", "document"}:
            [one] = http.ok("/score", {"text_1": row["row"]["query"], "text_2": row["row"]["document"]})["data"]
            assert abs(one["score"] - row["values"][0]) < 1e-4


@pytest.mark.parametrize("body,param", [
    ({"query": QUERY}, "documents[0]"),
    ({"query": QUERY, "documents": DOCUMENTS, "max_tokens_per_doc": 5}, "max_tokens_per_doc"),
    ({"query": QUERY, "documents": DOCUMENTS, "rank_fields": ["title"]}, "rank_fields"),
    ({"query": QUERY, "documents": [{"text": "a", "title": "b"}]}, "documents[0]"),
    ({"query": QUERY, "documents": DOCUMENTS, "top_n": -1}, "top_n"),
    ({"query": QUERY, "documents": DOCUMENTS, "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
])
def test_refusals(http, body, param):
    assert http.refused("/rerank", body)["param"] == param
