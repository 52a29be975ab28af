"""Columns of other names: --field, and TRL's labelled steps. The scores are those of the same rows under the names that rows have."""
import json
import tempfile

import pytest
from harness import MODELS, Broker
from test_cli import run

REWARD, PROCESS = MODELS / "demo-reward", MODELS / "demo-process"


@pytest.fixture(scope="module")
def served():
    with tempfile.TemporaryDirectory(prefix="assay-") as data, Broker(f"{data}/d", model=REWARD) as broker:
        yield broker


def score(broker, path, rows, *options):
    """Each row's line out, by its place."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    done = run("score", path, "-o", "-", "--connect", broker.endpoint, *options)
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_columns_under_other_names(served, tmp_path):
    plain = [{"id": f"r{k}", "prompt": f"{k} + 4 = ?", "response": str(k + 4), "system": "Add."} for k in range(6)]
    other = [{"uuid": row["id"], "instruction": row["prompt"], "output": row["response"], "context": row["system"], "id": None} for row in plain]
    options = ("--field", "prompt=instruction,response=output,system=context,id=uuid")
    expected = score(served, tmp_path / "a", plain)
    assert all(row["error"] is None for row in expected)
    assert score(served, tmp_path / "b", other, *options) == expected
    without = score(served, tmp_path / "c", other)
    assert all(row["error"] for row in without)
    kept = score(served, tmp_path / "d", other[:1], *options, "--keep-input")
    assert kept[0]["input"] == other[0] and kept[0]["score"] == expected[0]["score"]
    key = ["--key", f"fields-{id(served)}"]
    assert run("submit", tmp_path / "b", *key, "--connect", served.endpoint, *options).returncode == 0
    assert run("wait", key[1], "--connect", served.endpoint).returncode == 0
    results = [json.loads(line) for line in run("results", key[1], "--connect", served.endpoint).stdout.splitlines()]
    assert {row["id"]: row["score"] for row in results} == {row["id"]: row["score"] for row in expected}


def test_two_names_change_places(served, tmp_path):
    row = {"prompt": "7", "response": "3 + 4 = ?"}
    expected = score(served, tmp_path / "a", [{"prompt": row["response"], "response": row["prompt"]}])
    assert score(served, tmp_path / "b", [row], "--field", "prompt=response,response=prompt") == expected


def test_rows_that_do_not_fit(served, tmp_path):
    """The error names the key, the column and the line; a row under its own names is as ever."""
    options = ("--field", "prompt=instruction,response=output,id=uuid")
    good = {"prompt": "3 + 4 = ?", "response": "7"}
    found = score(served, tmp_path / "a", [
        good, {"instruction": "3 + 4 = ?", "output": "7", "prompt": None}, {**good, "instruction": "3 + 4 = ?"}, {**good, "output": "7"},
        {"instruction": "3 + 4 = ?", "output": 7}, {"instruction": "3 + 4 = ?", "output": ["7", "8"]}, {**good, "id": 1, "uuid": 1},
        '{"instruction": "3 + 4 = ?", "uuid": 99999999999999999999, "output": "7"}', '{"instruction": "3 + 4 = ?", "output": 1e999}',
        '{"instruction": "3 + 4 = ?", "output": "\\ud800"}', '{"uuid": "kept", "instruction": "3 + 4 = ?", "output": tru, "x": 1}',
        '{"instruction": "3 + 4 = ?", "output": "7", "hash": 99999999999999999999}'], *options)
    assert found[0]["score"] == found[1]["score"] == found[11]["score"] is not None
    words = [["prompt", "line 3", "instruction"], ["response", "line 4", "output"], ["response", "line 5", "column is output"],
             ["response", "line 6", "several answers", "column is output"], ["id: line 7", "uuid"], ["id: line 8", "64 bits", "column is uuid"],
             ["line 9"], ["line 10"], ["line 11"]]
    for row, expected in zip(found[2:11], words):
        assert row["error"]["code"] == "bad_request" and all(word in row["error"]["message"] for word in expected), row
    assert found[10]["id"] == "kept" and [row["id"] for row in found[:2]] == [1, 2]


@pytest.mark.parametrize("value,words", [
    ("prompt", "expected KEY=COLUMN"), ("prompt=", "expected KEY=COLUMN"), ("=a", "expected KEY=COLUMN"), ("prompt=a,", "expected KEY=COLUMN"),
    ("promt=a", "expected a key that rows have in front of '=', found 'promt'"), ("prompt=a,prompt=b", "each once"), ("prompt=a,response=a", "each once"),
    ("prompt=" + "x" * 200, "at most 127 bytes")])
def test_options_that_are_refused(tmp_path, value, words):
    (tmp_path / "in.jsonl").write_text("{}\n")
    done = run("score", tmp_path / "in.jsonl", "-o", tmp_path / "out", "--model", REWARD, "--field", value)
    assert done.returncode == 64 and "--field" in done.stderr and words in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_once_and_with_rows_alone(tmp_path):
    (tmp_path / "in.jsonl").write_text("{}\n")
    twice = run("score", tmp_path / "in.jsonl", "--model", REWARD, "--field", "prompt=a", "--field", "response=b")
    assert twice.returncode == 64 and "--field: expected once" in twice.stderr
    batch = run("score", "--format", "openai-batch", tmp_path / "in.jsonl", tmp_path / "out", "--model", REWARD, "--field", "prompt=a")
    assert batch.returncode == 64 and "--field" in batch.stderr


def test_another_field_begins_anew(tmp_path):
    """What is scored is another text, so a whole output is not taken for it."""
    rows = tmp_path / "in.jsonl"
    rows.write_text(json.dumps({"a": "3 + 4 = 7", "b": "3 + 4 = 8"}) + "\n")
    found = []
    for column in "abb":
        done = run("score", rows, "-o", tmp_path / "out", "--model", REWARD, "--field", f"text={column}")
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / "out").read_text())["score"])
    assert found[0] != found[1] == found[2]


def test_labelled_steps_of_trl(tmp_path):
    """prompt, completions, labels: one label a step makes them steps; anything else is refused by name."""
    steps = ["3 + 4 = 7", "7 + 5 = 12"]
    rows = [{"prompt": "What is 3 + 4 + 5?", "steps": steps}, {"prompt": "What is 3 + 4 + 5?", "completions": steps, "labels": [True, False]}]
    bad = [{"completions": steps}, {"completions": steps, "labels": [True]}, {"completions": steps, "labels": [1, 0]}, {"completions": [], "labels": []},
           {"completions": [["3"], "4"], "labels": [True, True]}]
    with Broker(tmp_path / "d", model=PROCESS) as broker:
        found = score(broker, tmp_path / "in", rows + [{"prompt": "What is 3 + 4 + 5?", **row} for row in bad])
    assert found[0]["steps"] == found[1]["steps"] and len(found[0]["steps"]) == 2
    for row in found[2:]:
        assert row["error"]["code"] == "bad_request" and "completions" in row["error"]["message"]
