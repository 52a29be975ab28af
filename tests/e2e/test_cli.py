"""The command line, as a person types it."""
import json
import os
import random
import re
import signal
import subprocess

import pytest
from harness import BIN, DEMO, PATIENCE, Broker, wait_until

ASSAY = str(BIN / "assay")


def run(*args, timeout=120, **options):
    return subprocess.run([ASSAY, *map(str, args)], capture_output=True, text=True, timeout=timeout * PATIENCE,
                          stdin=options.pop("stdin", subprocess.DEVNULL), **options)


def write_rows(path, n, seed=1, low=4, high=60):
    rng = random.Random(seed)
    with open(path, "w") as f:
        for k in range(n):
            ids = [rng.randrange(500) for _ in range(rng.randint(low, high))]
            f.write(json.dumps({"id": f"row-{k}", "input_ids": ids}) + "\n")
    return path


def read_lines(path):
    return [json.loads(line) for line in open(path)]


def test_score_with_a_private_broker(directory):
    rows = write_rows(directory / "in.jsonl", 120)
    done = run("score", rows, "-o", directory / "out.jsonl", "--model", DEMO, "--keep-data")
    assert done.returncode == 0 and "out.jsonl.assay" in done.stderr, done.stderr
    lines = read_lines(directory / "out.jsonl")
    assert [line["id"] for line in lines] == [f"row-{k}" for k in range(120)]
    assert all(isinstance(line["score"], float) and line["error"] is None for line in lines)
    assert all(line["pooled_at"][0]["i"] == line["n_tokens"] - 1 for line in lines)
    query = "select state,done,total from jobs"
    sql = subprocess.run(["sqlite3", "-readonly", directory / "out.jsonl.assay/assay.db", query], capture_output=True,
                         text=True, check=True)
    assert sql.stdout.strip() == "done|120|120"
    before = (directory / "out.jsonl").read_bytes()
    assert run("score", rows, "-o", directory / "out.jsonl", "--model", DEMO, "--force").returncode == 0
    assert (directory / "out.jsonl").read_bytes() == before and not (directory / "out.jsonl.assay").exists()


def rows_done(database):
    if not database.exists():
        return 0
    found = subprocess.run(["sqlite3", "-readonly", database, "select total(done) from jobs"], capture_output=True, text=True)
    return float(found.stdout or 0) if found.returncode == 0 else 0


def test_killed_and_run_again(directory):
    """SIGKILL in the middle, several times: each line once at the end, no row scored twice."""
    rows = write_rows(directory / "in.jsonl", 1500, low=100, high=300)
    command = [ASSAY, "score", rows, "-o", directory / "out.jsonl", "--model", DEMO, "--max-batch-tokens", "1024", "--keep-data"]
    database = directory / "out.jsonl.assay/assay.db"

    for part in (100, 400, 700):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: rows_done(database) >= part or process.poll() is not None, 120, 0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 * PATIENCE)
    assert done.returncode == 0, done.stderr
    lines = read_lines(directory / "out.jsonl")
    assert [line["id"] for line in lines] == [f"row-{k}" for k in range(1500)]
    counts = subprocess.run(["sqlite3", "-readonly", database, "select count(*), count(distinct i) from results"],
                            capture_output=True, text=True, check=True)
    assert counts.stdout.strip() == "1500|1500"


def test_interrupt_says_how_to_go_on(directory):
    """Once a row is done, with many seconds of work left on any machine."""
    rows = write_rows(directory / "in.jsonl", 12000, low=200, high=300)
    process = subprocess.Popen([ASSAY, "score", rows, "-o", directory / "out.jsonl", "--model", DEMO, "--threads", "1",
                                "--max-batch-tokens", "1024"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: rows_done(directory / "out.jsonl.assay/assay.db") > 0, 60)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 130 and "goes on" in words
    assert not (directory / "out.jsonl").exists()


def test_run_again_from_within_the_folder(directory):
    """The output is not there at the first run and there at the second: the job is the same."""
    write_rows(directory / "in.jsonl", 20)
    for _ in range(2):
        assert run("score", "in.jsonl", "-o", "out.jsonl", "--model", DEMO, "--keep-data", "--force", cwd=directory).returncode == 0
    sql = subprocess.run(["sqlite3", "-readonly", directory / "out.jsonl.assay/assay.db", "select count(*), total(done) from jobs"],
                         capture_output=True, text=True, check=True)
    assert sql.stdout.strip() == "1|20.0"


def test_bad_lines_are_their_own_errors(directory):
    lines = ['{"id":"a","input_ids":[1,2,3]}', 'not json', '{"id":"b"}', '{"id":"c","input_ids":[1,"x"]}', '[1]',
             '{"id":1.5,"input_ids":[1]}', '{"id":"d","input_ids":[]}', '{"id":"e","id":"f","input_ids":[1]}', '',
             '{"input_ids":[7,8,9]}']
    (directory / "in.jsonl").write_text("\n".join(lines) + "\n")
    done = run("score", directory / "in.jsonl", "-o", directory / "out.jsonl", "--model", DEMO)
    assert done.returncode == 1, done.stderr
    found = read_lines(directory / "out.jsonl")
    assert [line["id"] for line in found] == ["a", 2, "b", "c", 5, 6, "d", 8, 10]
    assert [line["error"] is None for line in found] == [True, False, False, False, False, False, False, False, True]
    assert "line 4" in found[3]["error"]["message"] and "input_ids[1]" in found[3]["error"]["message"]
    assert all(line["score"] is None for line in found if line["error"])


def test_keep_input_and_completion_order(directory):
    rows = write_rows(directory / "in.jsonl", 50)
    done = run("score", rows, "-o", directory / "out.jsonl", "--model", DEMO, "--keep-input", "--order", "completion")
    assert done.returncode == 0, done.stderr
    given = {row["id"]: row["input_ids"] for row in read_lines(rows)}
    lines = read_lines(directory / "out.jsonl")
    assert {line["id"]: line["input"]["input_ids"] for line in lines} == given and len(lines) == 50


def test_pipes(directory):
    rows = write_rows(directory / "in.jsonl", 5)
    before = set(directory.iterdir())
    with open(rows) as stdin:
        done = run("score", "-", "--model", DEMO, stdin=stdin, env={**os.environ, "TMPDIR": str(directory)})
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5 and done.stderr == "", done.stderr
    assert set(directory.iterdir()) == before
    with open(rows) as stdin:
        done = run("score", "-", "--data", directory / "data", "--model", DEMO, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5 and done.stderr == ""


def test_verbs_against_a_running_broker(directory):
    rows = write_rows(directory / "in.jsonl", 30)
    with Broker(directory / "data"):
        data = ["--data", directory / "data"]
        done = run("submit", rows, "--key", "monday", *data)
        assert done.returncode == 0 and "30 rows" in done.stdout, done.stderr
        done = run("wait", "monday", *data)
        assert done.returncode == 0 and "done 30 of 30" in done.stdout, (done.stdout, done.stderr)
        done = run("results", "monday", *data)
        assert len(done.stdout.splitlines()) == 30 and done.returncode == 0
        assert {json.loads(line)["id"] for line in done.stdout.splitlines()} == {f"row-{k}" for k in range(30)}
        status = json.loads(run("status", "monday", "--json", *data).stdout)
        assert status["done"] == 30 and status["state"] == "done"
        head, line = run("jobs", *data).stdout.splitlines()  # all of it, though the key is short
        assert line.split()[1] == "monday" and head.endswith("ROWS/S") and re.search(r" \d+\.\d$", line), line
        assert json.loads(run("info", "--json", *data).stdout)["ok"]
        done = run("status", "tuesday", *data)
        assert done.returncode == 65 and "unknown_job" in done.stderr
        assert run("pause", "monday", *data).returncode == 0
        assert run("resume", "monday", *data).returncode == 0
        assert run("cancel", "monday", *data).returncode == 0


@pytest.mark.parametrize("verb", ["score", "submit", "results", "status", "jobs", "wait", "cancel", "info"])
def test_help_has_examples_first(verb):
    done = run(verb, "--help")
    assert done.returncode == 0 and done.stdout.index("Examples:") < done.stdout.index("Options:")
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_exit_codes(directory):
    assert run().returncode == 64
    assert run("nonsense").returncode == 64
    assert run("score", "--nonsense").returncode == 64
    assert run("score", directory / "absent.jsonl", "--model", DEMO, "-o", directory / "o").returncode == 66
    assert run("status", "x", "--data", directory, "--timeout", "1").returncode == 69
    (directory / "in.jsonl").write_text('{"input_ids":[1]}\n')
    done = run("score", directory / "in.jsonl", "--model", directory, "-o", directory / "o")
    assert done.returncode == 78 and "config.json" in done.stderr, (done.returncode, done.stderr)
    os.mkdir(directory / "sealed", 0o500)
    if os.getuid() != 0:
        assert run("score", directory / "in.jsonl", "--model", DEMO, "-o", directory / "sealed/o").returncode == 74
