"""Recipes: text rows against the publishers' own arithmetic (tests/reference/make_recipes.py), the mode that keeps recipes apart, and what
contradicts one."""
import json
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, Refused
from test_cli import run
from test_golden import close, values

VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests/vectors/recipes").glob("*.json"))}
LLAMA = MODELS / "recipe-llama"


def score(directory, vectors, rows, options=()):
    with Broker(directory, model=MODELS / vectors["model"], options=["--recipe", vectors["recipe"], *options]) as broker:
        with broker.client() as client:
            return client.call("score", rows=rows, timeout_ms=60000)["rows"]


def result(row):
    return [row["chosen"], row["rejected"]] if "chosen" in row else values(row)


@pytest.mark.parametrize("name", VECTORS)
def test_rows_are_scored_as_the_publisher_does(directory, name):
    vectors = VECTORS[name]
    found = score(directory / "d", vectors, [row["row"] for row in vectors["rows"]])
    for got, row in zip(found, vectors["rows"]):
        assert got["error"] is None, (row["row"], got)
        assert got["n_tokens"] == len(row["ids"]), (row["row"], got)
        assert close(result(got), row["values"]), (row["row"], got, row["values"])


def test_each_recipe_is_listed_and_has_vectors():
    done = run("info", "--recipes", "--json")
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    text = run("info", "--recipes").stdout
    assert done.returncode == 0 and set(VECTORS) <= set(listed)
    assert set(listed) - set(VECTORS) <= {"qwen2.5-math-rm", "qwen2.5-math-prm", "inf-orm", "llama-factory"}, "new ones need vectors"
    for name, entry in listed.items():
        assert f"\n{name}\n" in "\n" + text and all(entry[key] for key in ("for", "architectures", "head", "rows", "text", "scored"))


def test_the_recipe_is_part_of_mode_and_hello(directory):
    with Broker(directory / "d", model=LLAMA, options=["--recipe", "nemotron-reward"]) as broker, broker.client() as client:
        hello = client.call("hello")
        assert hello["mode"].endswith(" recipe=nemotron-reward") and " head=lm:0:raw" in hello["mode"]
        assert hello["model"]["recipe"] == "nemotron-reward"
        client.submit("key", VECTORS["nemotron-reward"]["rows"][0]["row"] and [VECTORS["nemotron-reward"]["rows"][0]["row"]], seal=False)
    with Broker(directory / "d", model=LLAMA, options=["--head", "lm:0:raw"]) as broker, broker.client() as client:
        assert client.call("hello")["model"]["recipe"] is None and "recipe" not in client.call("hello")["mode"]
        assert "recipe=nemotron-reward" in client.call("status", job="key")["reason"]


@pytest.mark.parametrize("options, words", [
    (["--recipe", "nemotron"], "--recipe: expected qwen2.5-math-rm, "), (["--recipe", ""], "--recipe: expected"),
    (["--recipe", "nemotron-reward", "--head", "lm:0:raw"], "--head: expected auto with --recipe"),
    (["--recipe", "nemotron-reward", "--hf-pad-rule", "on"], "--hf-pad-rule: expected auto with --recipe"),
    (["--recipe", "inf-orm"], "--recipe inf-orm: architectures: expected INFORMForSequenceClassification, found 'LlamaForCausalLM'")])
def test_what_contradicts_a_recipe(directory, options, words):
    done = subprocess.run([BIN / "assayd", "--model", LLAMA, "--data", directory / "d", *options], capture_output=True, text=True,
                          timeout=60 * PATIENCE)
    assert done.returncode in (64, 78) and words in done.stderr, done.stderr
    assert not (directory / "d/assay.db").exists()


@pytest.mark.parametrize("option, value", [("head", "lm:0:raw"), ("pool", "MEAN"), ("step-token", "5"), ("activation", "sigmoid"),
                                           ("hf-pad-rule", "off")])
def test_options_of_the_command_beside_a_recipe(directory, option, value):
    rows = directory / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    done = run("score", rows, "-o", directory / "out", "--model", LLAMA, "--recipe", "nemotron-reward", f"--{option}", value)
    assert done.returncode == 64 and f"--recipe and --{option}: expected one of them" in done.stderr, done.stderr


def test_rows_that_contradict_a_recipe(directory):
    vectors = VECTORS["nemotron-reward"]
    row, expected = vectors["rows"][0]["row"], vectors["rows"][0]["values"]
    good, pool, activation, rule, steps = score(directory / "d", vectors, [
        dict(row, pool={"type": "LAST", "activation": "none"}), dict(row, pool={"type": "MEAN"}), dict(row, pool={"activation": "sigmoid"}),
        dict(row, hf_pad_rule=True), {"prompt": "a", "steps": ["b"]}])
    assert close(values(good), expected)
    for got, words in ((pool, "pool.type: the recipe nemotron-reward scores by LAST, found MEAN"),
                       (activation, "pool.activation: the recipe nemotron-reward has none, found sigmoid"),
                       (rule, "hf_pad_rule: the recipe nemotron-reward"), (steps, "steps: the recipe nemotron-reward is for rows of")):
        assert got["error"]["code"] == "bad_request" and words in got["error"]["message"], got
