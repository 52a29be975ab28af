"""What the programs say: options by name, the word that was meant, nothing that plays tricks on a terminal."""
import json
import os
import re
import shutil
import subprocess

import pytest
from harness import BIN, DEMO, MODELS, PATIENCE, ROOT, Broker
from test_cli import run, write_rows
from test_cli_outputs import SilentBroker


def broker(*args):
    return subprocess.run([BIN / "assayd", *map(str, args)], capture_output=True, text=True, timeout=30 * PATIENCE)


# ---- options ----

@pytest.mark.parametrize("args,words", [
    (["score", "--modle", "x"], "unknown option --modle; did you mean --model?"),
    (["score", "--modle=x"], "unknown option --modle; did you mean --model?"),
    (["score", "--treads", "2"], "did you mean --threads?"),
    (["score", "--keepinput"], "did you mean --keep-input?"),
    (["score", "--xyzzy"], "unknown option --xyzzy; see"),
    (["score", "--keep"], "ambiguous option --keep"),
    (["score", "-x"], "unknown option -x"),
    (["score", "--model"], "--model: expected an argument, found none"),
    (["score", "-o"], "-o: expected an argument, found none"),
    (["status", "--json=3"], "--json: expected no argument, found '3'"),
    (["scroe", "x"], "did you mean score?"), (["stauts"], "did you mean status?"), (["xyzzy"], "'xyzzy'; `assay --help`"),
])
def test_what_was_meant(args, words):
    done = run(*args)
    assert done.returncode == 64 and words in done.stderr, done.stderr
    assert done.stderr.startswith("assay: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("args,words", [
    (["--modle", "x"], "unknown option --modle; did you mean --model?"),
    (["--model"], "--model: expected an argument, found none"),
    (["--no-dedupe=1"], "--no-dedupe: expected no argument"), (["-x"], "unknown option -x"),
    (["--model", DEMO, "--threads", "0"], "--threads: expected an integer from 1"),
    (["--model", DEMO, "--served-name", "a\x1b[31mb"], "--served-name: expected a name"),
    (["--model", DEMO, "--served-name", "a\u202eb"], "--served-name: expected a name"),
])
def test_of_the_broker_too(args, words):
    done = broker(*args)
    assert done.returncode == 64 and words in done.stderr and done.stderr.startswith("assayd: "), done.stderr
    assert "\x1b" not in done.stderr and "\u202e" not in done.stderr


@pytest.mark.parametrize("option,value", [("threads", "0"), ("threads", "many"), ("tp", "17"), ("max-batch-tokens", "-1"), ("max-len", "")])
def test_numbers_of_the_private_broker_are_named(directory, option, value):
    rows = write_rows(directory / "in.jsonl", 2)
    done = run("score", rows, "-o", directory / "out", "--model", DEMO, f"--{option}", value)
    assert done.returncode == 64 and f"--{option}: expected an integer" in done.stderr, done.stderr
    assert {path.name for path in directory.iterdir()} == {"in.jsonl"}


@pytest.mark.parametrize("option,value", [("score-cache", "huge"), ("devices", "x")])
def test_what_only_the_broker_knows_is_named(directory, option, value):
    rows = write_rows(directory / "in.jsonl", 2)
    done = run("score", rows, "-o", directory / "out", "--model", DEMO, f"--{option}", value)
    assert done.returncode != 0 and f"--{option}: expected" in done.stderr, done.stderr
    assert {path.name for path in directory.iterdir()} == {"in.jsonl"}


def test_threads_are_those_that_may_be_used(directory):
    """On one core by its mask the ranks get one thread."""
    core = min(os.sched_getaffinity(0))
    process = Broker(directory / "d", options=["--log-level", "debug"])
    process.command = ["taskset", "-c", str(core), *process.command[:process.command.index("--threads")]]
    with process as running, running.client() as client:
        client.call("score", rows=[{"ids": [1, 2, 3]}])
        commands = [open(f"/proc/{pid}/cmdline").read().split("\0") for pid in running.worker_pids()]
        assert [words[words.index("--threads") + 1] for words in commands] == ["1"], commands


# ---- what strangers wrote ----

TRICKS = "a\x1b[31m\x7f\x9b31m\u202e\u2066\u200f\u061c\u2028z"
ACTED_ON = {ord(c) for c in TRICKS if not c.isalnum() and c not in "[m"}


def is_quiet(text):
    return not {ord(c) for c in text} & ACTED_ON


def test_texts_of_strangers(directory):
    """A job's key and a row's id, by every verb that shows them; as JSON they come back as they were."""
    with Broker(directory / "d", model=DEMO) as broker, broker.client() as client:
        data = ["--data", broker.data]
        client.submit(TRICKS, [{"ids": [1, 2], "id": TRICKS}, {"ids": [10**6], "id": TRICKS}])
        client.results(TRICKS)
        for verb in (["status", TRICKS], ["jobs"], ["top"], ["info"], ["verify", TRICKS], ["wait", TRICKS], ["results", TRICKS]):
            for more in ([], ["--json"]):
                done = run(*verb, *data, *more)
                assert is_quiet(done.stdout) and is_quiet(done.stderr), (verb, more, done.stdout, done.stderr)
                assert "a" in done.stdout and done.returncode in (0, 1), done
        assert json.loads(run("status", TRICKS, "--json", *data).stdout)["key"] == TRICKS
        assert json.loads(run("jobs", "--json", *data).stdout)["jobs"][0]["key"] == TRICKS
        lines = run("results", TRICKS, *data).stdout.splitlines()
        assert [json.loads(line)["id"] for line in lines] == [TRICKS] * 2
        for verb in ("status", "pause", "wait", "results"):
            done = run(verb, "no-" + TRICKS, *data)
            assert done.returncode == 65 and is_quiet(done.stderr) and done.stderr.count("\n") == 1
        client.call("pause", job=client.submit("held-" + TRICKS, [{"ids": [1]}], seal=False)["job"])
        done = run("wait", "held-" + TRICKS, "--max-wait", "0", *data)
        assert "is paused" in done.stderr and is_quiet(done.stderr)
        assert run("purge", TRICKS, *data).returncode == 0


def test_results_of_strangers_rows(directory):
    rows = directory / "in.jsonl"
    rows.write_text(json.dumps({"id": TRICKS, "input_ids": [1]}, ensure_ascii=False) + "\n")
    done = run("score", rows, "-o", directory / "out", "--model", DEMO, "--keep-input")
    text = (directory / "out").read_text()
    assert done.returncode == 0 and is_quiet(text)
    line = json.loads(text)
    assert line["id"] == TRICKS and line["input"]["id"] == TRICKS


def test_a_verb_and_a_log_line_are_quiet(directory):
    """Also a path with tricks in it, in the log."""
    done = run("x" + TRICKS)
    assert done.returncode == 64 and is_quiet(done.stderr)
    (model := directory / ("m" + TRICKS.replace("/", ""))).symlink_to(DEMO)
    with Broker(directory / "d", model=model) as broker:
        log = broker.words()
        assert "event=listening" in log and is_quiet(log) and "\n2" in log


def test_pieces_of_a_text_are_quiet():
    done = run("tokenize", "a\x9b\u202e\x7f", "--model", MODELS / "demo-reward")
    assert done.returncode == 0 and is_quiet(done.stdout) and "\\x7f" in done.stdout


def test_tokenize_says_which_lines_are_blank(directory):
    """As `score` it has nothing for them, and then a line of output is not the line of input with its number."""
    path = directory / "texts.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n \t\n\n{"text": "c"}\n\n')
    done = run("tokenize", "--jsonl", path, "--model", MODELS / "demo-reward")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
    assert f"{path}: blank lines: 3, the first is line 2" in done.stderr
    path.write_text('{"text": "a"}\n{"text": "b"}\n\n')
    assert run("tokenize", "--jsonl", path, "--model", MODELS / "demo-reward").stderr == ""


def test_a_key_with_nul_is_json_that_is_not_supported(directory):
    model, path = directory / "m", directory / "rows.jsonl"
    shutil.copytree(MODELS / "demo-reward", model)
    path.write_text('{"id": "a", "text": "x", "k\\u0000": 1}\n{"text": "y\\u0000"}\n')
    done = run("tokenize", "--jsonl", path, "--model", model)
    bad, good = map(json.loads, done.stdout.splitlines())
    assert bad["error"]["message"].startswith("line 1: unsupported JSON: NUL byte in object key") and good["ids"]
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["a\0b"] = 7
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = run("tokenize", "x", "--model", model)
    assert done.returncode == 78 and "tokenizer.json: unsupported JSON: line 1: NUL byte in object key" in done.stderr


# ---- what a broker refuses ----

def test_every_code_of_the_protocol_is_known(directory):
    page = (ROOT / "schema/PROTOCOL.md").read_text()
    tables = page[page.index("### Codes of refused requests"):page.index("## 3. ")]
    codes = set(re.findall(r"^\| `([a-z_]+)` \|", tables, re.M))
    assert len(codes) > 20 and "unknown_model" in codes
    codes.remove("queue_full")  # is waited for
    with SilentBroker(directory) as broker:
        for code in codes | {"a_code_of_a_later_version"}:
            broker.replies["status"] = {"ok": False, "err": {"code": code, "message": "m", "field": "f"}}
            done = run("status", "k", "--data", directory, "--timeout", "2")
            is_bug = code in {"internal", "non_finite", "worker_killed", "a_code_of_a_later_version"}
            assert (done.returncode == 70) == is_bug, (code, done)
            assert code.startswith("a_") or f"f: m ({code})" in done.stderr, (code, done)
