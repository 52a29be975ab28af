"""ASSAY_ENDPOINT and ASSAY_DATA: which broker the command line talks to, and what it says of where it has the name from."""
import json
import os
import subprocess

import pytest
from harness import BIN, DEMO, PATIENCE, Broker


def run(*arguments, home, timeout=60, **variables):
    env = {**os.environ, "HOME": str(home), **{name: str(value) for name, value in variables.items()}}
    env.pop("XDG_STATE_HOME", None)
    command = [BIN / "assay", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout * PATIENCE)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory):
    """Two, with a job each that is named as they are."""
    path = tmp_path_factory.mktemp("two")
    with Broker(path / "a") as a, Broker(path / "b") as b:
        for name, broker in (("a", a), ("b", b)):
            with broker.client() as client:
                client.submit(f"job-{name}", [{"id": 1, "ids": [1, 2, 3]}])
                client.results(f"job-{name}")
        yield a, b


@pytest.mark.parametrize("arguments,variables,found", [
    ([], {"ASSAY_DATA": "a"}, "a"),
    ([], {"ASSAY_ENDPOINT": "a"}, "a"),
    ([], {"ASSAY_ENDPOINT": "a", "ASSAY_DATA": "b"}, "a"),
    (["--data", "b"], {"ASSAY_ENDPOINT": "a", "ASSAY_DATA": "a"}, "b"),
    (["--connect", "b"], {"ASSAY_ENDPOINT": "a", "ASSAY_DATA": "a"}, "b"),
    (["--data", "b"], {"ASSAY_ENDPOINT": "nonsense"}, "b"),
    (["--connect", "b"], {"ASSAY_ENDPOINT": "", "ASSAY_DATA": ""}, "b"),
])
def test_an_option_wins(tmp_path, brokers, arguments, variables, found):
    named = dict(zip("ab", brokers))

    def value(kind, name):
        broker = named.get(name)
        return name if not broker else broker.endpoint if kind in ("--connect", "ASSAY_ENDPOINT") else broker.data

    arguments = [value(arguments[0], word) if at else word for at, word in enumerate(arguments)]
    variables = {name: value(name, of) for name, of in variables.items()}
    done = run("jobs", "--json", *arguments, home=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert f"job-{found}" in done.stdout and len(done.stdout.splitlines()) == 1, done.stdout


def test_scrub_and_verify_read_the_directory(tmp_path, brokers):
    a, b = brokers
    assert run("scrub", home=tmp_path, ASSAY_DATA=a.data).returncode == 0
    assert run("verify", "job-a", home=tmp_path, ASSAY_DATA=a.data).returncode == 0
    done = run("verify", "job-a", home=tmp_path, ASSAY_ENDPOINT=a.endpoint)
    assert done.returncode == 64 and "ASSAY_ENDPOINT" in done.stderr
    assert run("verify", "job-a", home=tmp_path, ASSAY_ENDPOINT=a.endpoint, ASSAY_DATA=a.data).returncode == 0


def test_errors_say_where_the_name_is_from(tmp_path):
    nobody = tmp_path / "nobody"
    nobody.mkdir(mode=0o700)
    done = run("jobs", "--timeout", 1, home=tmp_path, ASSAY_DATA=nobody)
    assert done.returncode == 69 and "(from ASSAY_DATA)" in done.stderr and str(nobody) in done.stderr
    done = run("jobs", "--timeout", 1, home=tmp_path, ASSAY_ENDPOINT=f"ipc://{nobody}/broker.sock")
    assert done.returncode == 69 and "(from ASSAY_ENDPOINT)" in done.stderr
    done = run("jobs", "--timeout", 1, "--data", nobody, home=tmp_path, ASSAY_DATA="x")
    assert done.returncode == 69 and "ASSAY_DATA" not in done.stderr
    done = run("jobs", home=tmp_path, ASSAY_ENDPOINT="nonsense")
    assert done.returncode == 64 and "ASSAY_ENDPOINT: " in done.stderr and "--connect" not in done.stderr


def test_help_names_the_variables(tmp_path):
    done = run("jobs", "--help", home=tmp_path)
    assert "$ASSAY_ENDPOINT" in done.stdout and "$ASSAY_DATA" in done.stdout
    page = run("man", home=tmp_path).stdout
    assert "ASSAY_ENDPOINT" in page and "ASSAY_DATA" in page


def test_a_private_broker_is_not_concerned(tmp_path):
    """With --model its directory is beside the output, and nothing is made where the variables point."""
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "ids": [1, 2, 3]}\n')
    done = run("score", tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl", "--model", DEMO, home=tmp_path,
               ASSAY_DATA=tmp_path / "elsewhere", ASSAY_ENDPOINT="ipc:///nowhere/broker.sock")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["score"] is not None
    assert not (tmp_path / "elsewhere").exists()
