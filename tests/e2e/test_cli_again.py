"""The same command again: what it goes on with, what begins anew, what is left behind."""
import gzip
import json
import os
import shutil
import signal
import subprocess

import pytest
from harness import BIN, DEMO, MODELS, PATIENCE, Broker, wait_until
from test_cli import ASSAY, read_lines, rows_done, run, write_rows


def score(rows, output, *more, model=DEMO, **options):
    return run("score", rows, "-o", output, "--model", model, "--threads", "1", *more, **options)


def names(directory):
    return {path.name for path in directory.iterdir()}


def sql(directory, query):
    done = subprocess.run(["sqlite3", "-readonly", directory / "assay.db", query], capture_output=True, text=True, check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


def interrupt(directory, rows, *more, done=1):
    """A run that is stopped once some rows are done; those."""
    process = subprocess.Popen([ASSAY, "score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1", *more],
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: rows_done(directory / "out.assay/assay.db") >= done, 60)
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=60 * PATIENCE)[1]
    assert process.returncode == 130 and "goes on from there" in words, words
    return rows_done(directory / "out.assay/assay.db")


@pytest.fixture(scope="module")
def marks():
    """Does this file system keep what an output was made from?"""
    import tempfile
    with tempfile.NamedTemporaryFile() as f:
        try:
            os.setxattr(f.name, "user.assay.test", b"1")
            return True
        except OSError:
            return False


def test_nothing_is_left_after_success(directory):
    rows = write_rows(directory / "in.jsonl", 20)
    done = score(rows, directory / "out")
    assert done.returncode == 0 and done.stderr == ""
    assert names(directory) == {"in.jsonl", "out"}


def test_without_dedupe_nothing_is_reused(directory):
    """No cache then, either: the two exclude each other."""
    rows = write_rows(directory / "in.jsonl", 20)
    rows.write_text(rows.read_text() * 2)
    done = score(rows, directory / "out", "--no-dedupe", "--keep-data")
    assert done.returncode == 0, done.stderr
    assert sql(directory / "out.assay", "select done, copied + cached from jobs") == [["40", "0"]]
    assert not list((directory / "out.assay").glob("score-cache*"))


def test_a_whole_output_is_left_as_it_is(directory, marks):
    if not marks:
        pytest.skip("no extended attributes here")
    rows, out = write_rows(directory / "in.jsonl", 20), directory / "out"
    assert score(rows, out).returncode == 0

    def is_scored_again(*more, **how):
        before = out.stat()
        done = score(how.pop("rows", rows), out, *more, **how)
        assert done.returncode == 0 and names(directory) >= {"in.jsonl", "out"}
        again = out.stat().st_ino != before.st_ino or out.stat().st_mtime_ns != before.st_mtime_ns
        assert again == ("--force" not in done.stderr), done.stderr
        return again

    assert not is_scored_again()
    assert is_scored_again("--force")
    assert is_scored_again("--keep-input")  # other options
    assert is_scored_again()
    assert not is_scored_again()
    with open(out, "a") as f:
        f.write("touched\n")
    assert is_scored_again() and len(read_lines(out)) == 20  # another output
    write_rows(directory / "in.jsonl", 20, seed=2)
    assert is_scored_again()  # another input
    shutil.copytree(DEMO, directory / "model")
    assert is_scored_again(model=directory / "model")  # another model
    os.utime(directory / "model/config.json")
    assert is_scored_again(model=directory / "model")
    assert is_scored_again("--accept-mode", model=directory / "model")
    assert is_scored_again("--weights", "single", model=directory / "model")
    assert is_scored_again("--weights", "single", "--hf-pad-rule", "off", model=directory / "model")
    assert not is_scored_again("--weights", "single", "--hf-pad-rule", "off", "--max-batch-tokens", "64", model=directory / "model")
    assert len(read_lines(out)) == 20
    assert score(rows, directory / "out.gz", model=directory / "model").returncode == 0
    (directory / "out.gz").rename(out)  # whole, but not what its name says now
    assert is_scored_again(model=directory / "model") and len(read_lines(out)) == 20


@pytest.mark.parametrize("how", ["written to", "replaced", "compressed, written to"])
def test_an_input_that_changes_while_it_is_read(directory, marks, how):
    """What was read is scored; the output does not pass for one of the new contents."""
    rows, other, out = write_rows(directory / "in.jsonl", 2000), write_rows(directory / "other.jsonl", 2000, seed=2), directory / "out"
    if how.startswith("compressed"):
        rows.write_bytes(gzip.compress(rows.read_bytes()))
    process = subprocess.Popen([ASSAY, "score", rows, "-o", out, "--model", DEMO, "--threads", "1"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: rows_done(directory / "out.assay/assay.db") >= 1, 60)
    process.send_signal(signal.SIGSTOP)
    if how == "replaced":
        other.rename(rows)
    else:
        text = rows.read_bytes()
        with open(rows, "rb+") as f:
            f.write(text)
    process.send_signal(signal.SIGCONT)
    words = process.communicate(timeout=120 * PATIENCE)[1]
    assert process.returncode == 0 and ("was written to while it was read" in words) == (how != "replaced"), words
    done = score(rows, out)
    assert done.returncode == 0 and "there and whole" not in done.stderr
    fresh = score(rows, directory / "fresh")
    assert fresh.returncode == 0 and read_lines(out) == read_lines(directory / "fresh")


def test_an_input_with_a_bad_line_that_changes(directory, marks):
    """A failed row does not hide it."""
    rows = write_rows(directory / "in.jsonl", 2000)
    rows.write_bytes(b"{bad\n" + rows.read_bytes())
    process = subprocess.Popen([ASSAY, "score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: rows_done(directory / "out.assay/assay.db") >= 1, 60)
    os.utime(rows)
    words = process.communicate(timeout=120 * PATIENCE)[1]
    assert process.returncode == 1 and "was written to while it was read" in words and "1 failed" in words, words


def test_a_submitted_file_that_changes(directory):
    rows = write_rows(directory / "in.jsonl", 20_000)
    with Broker(directory / "d", model=DEMO, options=["--max-batch-tokens", 64]) as broker, broker.client() as client:
        process = subprocess.Popen([ASSAY, "submit", rows, "--key", "job", "--data", broker.data], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        wait_until(lambda: client.call("jobs")["jobs"], 60, step=0.001)
        process.send_signal(signal.SIGSTOP)
        is_read = client.call("status", job="job")["accepted"] == 20_000
        os.utime(rows)
        process.send_signal(signal.SIGCONT)
        out, words = process.communicate(timeout=60 * PATIENCE)
        assert process.returncode == 0 and "20000 rows accepted" in out, (out, words)
        assert is_read or ("was written to while it was read" in words and "another key" in words), words


def test_an_output_in_the_model_s_directory(directory, marks):
    """It is no file of the checkpoint, and neither is the folder that a run has beside it."""
    if not marks:
        pytest.skip("no extended attributes here")
    model, rows = directory / "model", write_rows(directory / "in.jsonl", 5)
    shutil.copytree(DEMO, model)

    def is_scored_again(*more):
        done = score(rows, model / "out.jsonl", *more, model=model)
        assert done.returncode == 0 and len(read_lines(model / "out.jsonl")) == 5, done.stderr
        return "there and whole" not in done.stderr

    assert is_scored_again("--keep-data")
    assert not is_scored_again()
    os.utime(model / "model.safetensors")
    assert [is_scored_again(), is_scored_again()] == [True, False]
    (model / "added_tokens.json").write_text("{}")
    assert is_scored_again()


def test_another_worker_scores_again(directory, marks):
    """The programs are part of what an output was made by: each that may run, where it lies beside the others and where --worker names it."""
    if not marks:
        pytest.skip("no extended attributes here")
    rows, bin = write_rows(directory / "in.jsonl", 5), directory / "bin"
    bin.mkdir()
    for name in ("assay", "assayd", "assay-worker"):
        shutil.copy(BIN / name, bin)
    shutil.copy(BIN / "assay-worker", directory / "mine")

    def is_scored_again(*more):
        done = subprocess.run([bin / "assay", "score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1", *more],
                              capture_output=True, text=True, timeout=120 * PATIENCE)
        assert done.returncode == 0, done.stderr
        return "--force" not in done.stderr

    assert [is_scored_again(), is_scored_again()] == [True, False]
    for body in ("exit 1", "exit 1 # built anew"):  # it finds no GPU
        (bin / "assay-worker-cuda").write_text(f"#!/bin/sh\n{body}\n")
        (bin / "assay-worker-cuda").chmod(0o755)
        assert [is_scored_again(), is_scored_again()] == [True, False], body
    (bin / "assay-worker-cuda").unlink()
    assert is_scored_again()
    named = ("--worker", directory / "mine")
    assert [is_scored_again(*named), is_scored_again(*named)] == [True, False]
    os.utime(directory / "mine")
    assert is_scored_again(*named)


def test_a_failed_start_leaves_nothing(directory):
    rows = write_rows(directory / "in.jsonl", 5)
    assert score(rows, directory / "out", model=directory).returncode == 78
    assert score(rows, directory / "out", "--threads", "1", "--worker", "/nonexistent").returncode != 0
    assert score(directory / "missing", directory / "out").returncode == 66
    assert names(directory) == {"in.jsonl"}


def test_a_directory_that_was_there_stays(directory):
    rows = write_rows(directory / "in.jsonl", 5)
    (directory / "out.assay").mkdir(mode=0o700)
    assert score(rows, directory / "out").returncode == 0
    assert (directory / "out.assay").is_dir()
    assert score(rows, directory / "out2", "--data", directory / "d").returncode == 0
    assert (directory / "d/assay.db").exists()


def test_mended_input_is_scored_anew_and_the_rest_reused(directory):
    """A line is bad, the run ends with 1, the line is mended: no key to know of, one row computed."""
    rows, out = write_rows(directory / "in.jsonl", 2000), directory / "out"
    good = rows.read_text().splitlines()
    rows.write_text("\n".join([*good[:1500], '{"id":"bad"}', *good[1500:]]) + "\n")
    done = score(rows, out)
    assert done.returncode == 1 and "1 failed" in done.stderr and "mended" in done.stderr
    first = {line["id"]: line for line in read_lines(out)}
    rows.write_text("\n".join([*good[:1500], '{"id":"bad","input_ids":[1,2,3]}', *good[1500:]]) + "\n")
    done = score(rows, out, "--keep-data")
    assert done.returncode == 0 and "scoring anew" in done.stderr, done.stderr
    lines = read_lines(out)
    assert [line["id"] for line in lines] == [f"row-{k}" for k in range(1500)] + ["bad"] + [f"row-{k}" for k in range(1500, 2000)]
    assert all(line == first[line["id"]] for line in lines if line["id"] != "bad")
    jobs = sql(directory / "out.assay", "select state, done, copied + cached from jobs order by job")
    assert jobs[0][:2] == ["done", "2000"] and jobs[1] == ["done", "2001", "2000"]


@pytest.mark.parametrize("change", ["checkpoint", "mode"])
def test_a_finished_job_of_another_checkpoint_or_mode(directory, change):
    """Its scores are not this run's, though its rows are the same and the directory was kept."""
    rows, out, model = write_rows(directory / "in.jsonl", 20), directory / "out", directory / "model"
    shutil.copytree(DEMO, model)
    assert score(rows, out, "--keep-data", model=model).returncode == 0
    before, more = out.read_bytes(), ["--quant", "int8"] if change == "mode" else []
    if change == "checkpoint":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.25}))
    done = score(rows, out, "--keep-data", "--key", "mine", *more, model=model)
    assert done.returncode == 0, done.stderr
    fresh = out.read_bytes()
    done = score(rows, out, "--keep-data", "--force", *more, model=model)
    assert done.returncode == 0 and "scoring anew" in done.stderr, done.stderr
    assert out.read_bytes() == fresh != before
    if change == "mode":  # a key of the user's own is not changed in silence
        done = score(rows, out, "--keep-data", "--force", "--key", "mine", model=model)
        assert done.returncode != 0 and "--accept-mode" in done.stderr and out.read_bytes() == fresh
        assert score(rows, out, "--keep-data", "--force", "--key", "mine", "--accept-mode", model=model).returncode == 0


@pytest.mark.parametrize("change", ["shorter", "longer", "other", "pool", "mode"])
def test_an_interrupted_run_of_something_else(directory, change):
    """Whatever differs, the output is that of the second command alone, and the old job no longer runs."""
    rows = write_rows(directory / "in.jsonl", 1200, low=50, high=100)
    interrupt(directory, rows, "--max-batch-tokens", "1024", done=150)
    more = {"pool": ["--pool", "MEAN"], "mode": ["--quant", "int8"]}.get(change, [])
    n = {"shorter": 512, "longer": 1300}.get(change, 300)
    if change != "mode" and change != "pool":
        write_rows(rows, n, seed=2 if change == "other" else 1, low=50, high=100)
    else:
        n = 1200
    done = score(rows, directory / "out", "--keep-data", *more)
    assert done.returncode == 0 and "scoring anew" in done.stderr, done.stderr
    fresh = score(rows, directory / "fresh", *more)
    assert fresh.returncode == 0
    assert (directory / "out").read_bytes() == (directory / "fresh").read_bytes() and len(read_lines(directory / "out")) == n
    states = [state for state, in sql(directory / "out.assay", "select state from jobs order by job")]
    assert states == ["cancelled", "done"]


def test_the_same_command_goes_on(directory):
    """In the middle of a job, and with a file that was only touched."""
    rows = write_rows(directory / "in.jsonl", 1200, low=50, high=100)
    before = interrupt(directory, rows, "--max-batch-tokens", "1024", done=150)
    os.utime(rows)
    done = score(rows, directory / "out", "--keep-data")
    assert done.returncode == 0 and "anew" not in done.stderr
    assert sql(directory / "out.assay", "select count(*), sum(done) from jobs") == [["1", "1200"]]
    assert before >= 150


def test_a_chat_template_that_no_row_shows(directory):
    """The rows as they are sent are the same; the scores are not."""
    rows, out = directory / "in.jsonl", directory / "out"
    rows.write_text('{"prompt":"What is 3 + 4?","response":"7"}\n')
    found = []
    for template in ("chatml", "qwen1.5"):
        done = score(rows, out, "--chat-template", template, "--keep-data", model=MODELS / "demo-reward")
        assert done.returncode == 0, done.stderr
        found.append(read_lines(out)[0]["n_tokens"])
    assert found[0] != found[1]


def test_a_broker_of_many_keeps_what_others_began(directory):
    """--data of a running broker: the changed input is a job of its own, the one before is left alone."""
    rows, out = write_rows(directory / "in.jsonl", 20), directory / "out"
    with Broker(directory / "d") as broker:
        for seed, expected in ((1, 1), (2, 2), (2, 2), (1, 3)):
            write_rows(rows, 20, seed=seed)
            done = run("score", rows, "-o", out, "--data", broker.data)
            assert done.returncode == 0, done.stderr
            assert broker.sql("select count(*), sum(state = 'done') from jobs") == [(expected, expected)]
        keys = [key for key, in broker.sql("select key from jobs order by job")]
        assert keys[1:] == [f"{keys[0]}.2", f"{keys[0]}.3"]
        write_rows(rows, 20, seed=3)
        done = run("score", rows, "-o", out, "--data", broker.data, "--key", keys[0])
        assert done.returncode == 65 and "key_reused" in done.stderr  # a key that was chosen
        run("cancel", keys[0], "--data", broker.data)


@pytest.mark.parametrize("how", ["pipe", "named pipe"])
def test_input_from_a_pipe(directory, how):
    """No --data is needed; twice with other rows, and nothing is left, not even when it is stopped."""
    for seed in (1, 2):
        rows = write_rows(directory / "in.jsonl", 20, seed=seed)
        if how == "pipe":
            with open(rows) as stdin:
                done = score("-", directory / "out", stdin=stdin)
        else:
            os.mkfifo(pipe := directory / f"pipe-{seed}")
            process = subprocess.Popen(["sh", "-c", f"cat {rows} > {pipe}"])
            done = score(pipe, directory / "out")
            process.kill()
            process.wait()
            pipe.unlink()
        assert done.returncode == 0 and len(read_lines(directory / "out")) == 20, done.stderr
        assert names(directory) == {"in.jsonl", "out"}


def test_a_pipe_that_is_stopped(directory):
    reader, writer = os.pipe()
    process = subprocess.Popen([ASSAY, "score", "-", "-o", directory / "out", "--model", DEMO], stdin=reader, stderr=subprocess.PIPE,
                               text=True)
    wait_until(lambda: list((directory / "out.assay").glob("broker.sock.*")))
    process.terminate()
    words = process.communicate(timeout=30 * PATIENCE)[1]
    os.close(reader)
    os.close(writer)
    assert process.returncode == 143 and "again" not in words
    assert names(directory) == set()


SIDE_FILES = {"added_tokens.json": '{"<|x|>": 299}', "special_tokens_map.json": '{"additional_special_tokens": ["<|x|>"]}',
              "additional_chat_templates/other.jinja": "{{ messages }}"}


@pytest.mark.parametrize("name", SIDE_FILES)
@pytest.mark.parametrize("more", [["--keep-data"], []], ids=["kept", "after a failed row"])
def test_how_text_becomes_tokens_has_changed(directory, name, more):
    shutil.copytree(MODELS / "demo-reward", directory / "m")
    (directory / "m/additional_chat_templates").mkdir()
    rows = directory / "rows.jsonl"
    rows.write_text('{"id": "a", "text": "a<|x|> b"}\n' + ("" if more else '{"id": "bad"}\n'))
    score(rows, directory / "out", *more, model=directory / "m")
    (directory / "m" / name).write_text(SIDE_FILES[name])
    again = score(rows, directory / "out", *more, model=directory / "m")
    fresh = score(rows, directory / "fresh", model=directory / "m")
    assert again.returncode == fresh.returncode == (0 if more else 1), again.stderr
    assert read_lines(directory / "out") == read_lines(directory / "fresh")


def test_an_input_that_kept_its_time(directory, marks):
    if not marks:
        pytest.skip("no extended attributes here")
    rows, seen = directory / "rows.jsonl", []
    for token in (7, 8):
        rows.write_text('{"input_ids": [1, %d]}\n' % token)
        os.utime(rows, (1.5e9, 1.5e9))
        assert score(rows, directory / "out").returncode == 0
        seen.append(read_lines(directory / "out")[0]["score"])
    assert seen[0] != seen[1]


@pytest.mark.parametrize("how", ["a directory", "a dangling link", "a pipe"])
@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates"])
def test_a_file_that_could_not_be_read(directory, how, name):
    """The errors of its rows go with it."""
    shutil.copytree(MODELS / "demo-reward", directory / "m")
    (directory / "rows.jsonl").write_text('{"prompt": "What is 3 + 4?", "response": "7"}\n')
    path = directory / "m" / name
    if name == "additional_chat_templates":
        path.mkdir()
        path = path / "chat_template.jinja"
    {"a directory": path.mkdir, "a dangling link": lambda: path.symlink_to("nowhere"), "a pipe": lambda: os.mkfifo(path)}[how]()
    bad = score(directory / "rows.jsonl", directory / "out", model=directory / "m")
    path.rmdir() if how == "a directory" else path.unlink()
    again = score(directory / "rows.jsonl", directory / "out", model=directory / "m")
    assert again.returncode == 0 and read_lines(directory / "out")[0]["error"] is None, (bad.stderr, again.stderr)
    if name == "chat_template.jinja":
        assert bad.returncode == 1 and name in bad.stderr, bad.stderr
