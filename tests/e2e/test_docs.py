"""What the documents say is tried: the README's Python as printed, its SQL and curl lines, the names that worker/README.md lists."""
import json
import re
import subprocess
import sys

import pytest
from harness import BIN, DEMO, MODELS, ROOT, Broker, changed_model, wait_until
from http_harness import Http

README = (ROOT / "README.md").read_text()


def test_python_example_as_printed(directory):
    example = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    with Broker(directory / "d", model=MODELS / "demo-reward") as broker:
        assert "ipc://assay-data/broker.sock" in example
        example = example.replace("ipc://assay-data/broker.sock", broker.endpoint)
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"a -?\d+\.\d+\nb -?\d+\.\d+\n", done.stdout), done.stdout


@pytest.mark.parametrize("page,most", [("README.md", 2), ("broker/http/README.md", 12)])
def test_curl_lines_as_printed(directory, tmp_path, page, most):
    """Each curl of the pages gets a reply with a score, but for those that ask how things are."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.S)
    commands = [command for block in blocks for command in re.findall(r"^curl .*?(?=^\S|\Z)", block, re.S | re.M)]
    assert len(commands) == most
    second = ["--model", f"second={changed_model(tmp_path / 'second', -0.5)}"]
    with Broker(directory / "d", model=f"demo-reward={MODELS / 'demo-reward'}", options=second) as broker, Http(directory, broker) as http:
        for command in commands:
            assert "localhost:8000" in command
            done = subprocess.run(["sh", "-c", command.replace("localhost:8000", f"127.0.0.1:{http.port}")], capture_output=True, text=True, timeout=60)
            reply = done.stdout if "/metrics" in command else json.loads(done.stdout)
            assert done.returncode == 0 and reply != "" and (not isinstance(reply, dict) or "error" not in reply), (command, done)


def test_sql_shows_the_job_while_it_runs(directory):
    """The README's query, through sqlite3 -readonly, before the job is done."""
    with Broker(directory / "d", options=["--max-batch-tokens", 256]) as broker, broker.client() as client:
        client.submit("monday", [{"ids": [k % 500] * 250} for k in range(400)])

        def query():
            done = subprocess.run(["sqlite3", "-readonly", broker.data / "assay.db",
                                   "select key,state,done,total from jobs"], capture_output=True, text=True, check=True)
            return done.stdout.strip().split("|")

        key, state, done, total = wait_until(lambda: (row := query())[2] != "0" and row)
        assert (key, total) == ("monday", "400") and state in ("running", "queued") and 0 < int(done) < 400
        client.results("monday")
        assert query() == ["monday", "done", "400", "400"]


def test_names_of_the_table_exist():
    """Every name in the "here" column of worker/README.md is in the code."""
    code = "\n".join(path.read_text() for path in (ROOT / "worker").glob("*.h"))
    rows = [line.split("|") for line in (ROOT / "worker/README.md").read_text().splitlines() if line.startswith("| ")]
    names = {name for row in rows for name in re.findall(r"`(?:struct )?([a-z_0-9]+)`", row[4])}
    assert len(names) >= 8
    for name in names | {"kv_caches", "intermediate_tensors", "attn_metadata", "load_weights", "pooling_metadata"}:
        assert re.search(rf"\b(\w+_)?{name}\b", code), name


def test_figures_are_those_that_were_measured():
    """Every line of the README's table of speed is the page's of tests/bench."""
    def figures(path):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in path.read_text().splitlines()]
        return [cells[:5] for cells in lines if re.fullmatch(r"[a-z]+\d?", cells[0]) and len(cells) >= 5 and cells[0] != "id"]

    ours, measured = figures(ROOT / "README.md"), figures(ROOT / "tests/bench/README.md")
    assert len(ours) >= 10
    assert [line for line in ours if line not in measured] == []


def test_links_between_documents():
    """Files that the documents link to exist."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/*.md"), *ROOT.glob("broker/*/*.md"),
                 *ROOT.glob("tests/*/*.md")]:
        if "build" in path.parts:
            continue
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path}: {link}"


def test_help_of_every_program():
    for program in ("assayd", "assay-worker", "assay", "assay-http"):
        done = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and "Examples" in done.stdout


def test_describe_is_json():
    done = subprocess.run([BIN / "assay-worker", "--describe", "--model", DEMO], capture_output=True, text=True, timeout=20)
    assert json.loads(done.stdout)["architecture"] == "Qwen2ForRewardModel"
