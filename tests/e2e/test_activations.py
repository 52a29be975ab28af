"""--activation config: what config.json names, and what it may not leave open."""
import json
import math

import pytest
from harness import MODELS, Broker, ids_bytes
from test_cli import run
from test_heads import copy_model

IDS = [3, 5, 7, 11]
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def softmax(values):
    exps = [math.exp(value - max(values)) for value in values]
    return [value / sum(exps) for value in exps]


def sigmoid(values):
    return [1 / (1 + math.exp(-value)) for value in values]


CASES = [
    ("seqcls", {"problem_type": "regression"}, "none"), ("seqcls", {"problem_type": "single_label_classification"}, "sigmoid"),
    ("seqcls", {"problem_type": "multi_label_classification"}, "sigmoid"),
    ("seqcls-3-labels", {"problem_type": "single_label_classification"}, "softmax"),
    ("seqcls-3-labels", {"problem_type": "multi_label_classification"}, "sigmoid"),
    ("seqcls", {"sentence_transformers": {"activation_fn": SIGMOID, "version": "5.0.0"}}, "sigmoid"),
    ("seqcls", {"sentence_transformers": {"activation_fn": IDENTITY}, "problem_type": "regression"}, "none"),
    ("seqcls", {"sbert_ce_default_activation_function": SIGMOID}, "sigmoid"),
    # the newer field counts where both are there
    ("seqcls", {"sentence_transformers": {"activation_fn": IDENTITY}, "sbert_ce_default_activation_function": SIGMOID}, "none"),
]


@pytest.mark.parametrize("name, changes, expected", CASES, ids=str)
def test_what_config_names(directory, name, changes, expected):
    with Broker(directory / "d", model=copy_model(directory, name, **changes)) as broker, broker.client() as client:
        raw, asked, named = client.call("score", rows=[
            {"ids": ids_bytes(IDS)}, {"ids": ids_bytes(IDS), "pool": {"activation": "config"}},
            {"ids": ids_bytes(IDS), "pool": {"activation": expected}}])["rows"]
    found = [row.get("scores", [row.get("score")]) for row in (raw, asked)]
    wanted = {"none": lambda v: v, "sigmoid": sigmoid, "softmax": softmax}[expected](found[0])
    assert asked["error"] is None and all(abs(a - b) < 1e-6 for a, b in zip(found[1], wanted)), (raw, asked)
    assert asked.get("activation", "none") == expected and "activation" not in raw
    assert {key: asked[key] for key in asked if key != "i"} == {key: named[key] for key in named if key != "i"}


@pytest.mark.parametrize("changes, words", [
    ({}, "expected sentence_transformers.activation_fn, sbert_ce_default_activation_function or problem_type, or"),
    ({"problem_type": "ranking"}, "problem_type: expected regression"), ({"sbert_ce_default_activation_function": "my.Own"}, "found 'my.Own'"),
    ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, "torch's Sigmoid, Identity or Softmax"),
    ({"sentence_transformers": {"activation_fn": SIGMOID}, "problem_type": "regression"}, "problem_type says none, and another field sigmoid"),
], ids=str)
def test_what_config_leaves_open(directory, changes, words):
    rows = directory / "rows.jsonl"
    rows.write_text(json.dumps({"input_ids": IDS}) + "\n")
    done = run("score", rows, "-o", directory / "out", "--model", copy_model(directory, "seqcls", **changes), "--activation", "config")
    got = json.loads((directory / "out").read_text())
    assert done.returncode == 1 and got["error"]["code"] == "bad_request" and words in got["error"]["message"], got


def test_the_file_beside_counts_first(directory):
    """As sentence-transformers 6 reads it."""
    model = copy_model(directory, "seqcls", sentence_transformers={"activation_fn": IDENTITY})
    for text, words in (({"activation_fn": SIGMOID}, None), ({"prompts": {}}, None), ({"activation_fn": "x.Y"}, "found 'x.Y'"), ("[", "config_s")):
        (model / "config_sentence_transformers.json").write_text(text if isinstance(text, str) else json.dumps(text))
        with Broker(directory / "d", model=model) as broker, broker.client() as client:
            got = client.call("score", rows=[{"ids": ids_bytes(IDS), "pool": {"activation": "config"}}])["rows"][0]
        assert words in got["error"]["message"] if words else got.get("activation", "none") == ("sigmoid" if "activation_fn" in text else "none")


def test_the_command_echoes_it(directory):
    rows = directory / "rows.jsonl"
    rows.write_text(json.dumps({"input_ids": IDS}) + "\n")
    run("score", rows, "-o", directory / "out", "--model", copy_model(directory, "seqcls", problem_type="multi_label_classification"),
        "--activation", "config")
    got = json.loads((directory / "out").read_text())
    assert got["activation"] == "sigmoid" and 0 < got["score"] < 1


def test_a_model_without_such_fields(directory):
    with Broker(directory / "d", model=MODELS / "reward") as broker, broker.client() as client:
        got = client.call("score", rows=[{"ids": ids_bytes(IDS), "pool": {"activation": "config"}}])["rows"][0]
    assert "pool.activation: config.json: expected" in got["error"]["message"], got


def test_a_changed_file_beside_config_is_another_checkpoint(directory):
    """Work that is kept from before it changed is not taken."""
    model, rows = copy_model(directory, "seqcls"), directory / "rows.jsonl"
    rows.write_text(json.dumps({"input_ids": IDS}) + '\n{"prompt": "a checkpoint without a tokenizer", "response": "x"}\n')
    found = []
    for name in (IDENTITY, SIGMOID):
        (model / "config_sentence_transformers.json").write_text(json.dumps({"activation_fn": name}))
        done = run("score", rows, "-o", directory / "out", "--model", model, "--activation", "config")
        assert done.returncode == 1, done.stderr
        found.append(json.loads((directory / "out").read_text().splitlines()[0])["score"])
    assert abs(found[1] - sigmoid(found[:1])[0]) < 1e-6
