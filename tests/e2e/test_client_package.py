"""The C program, the Python package as it is installed, Parquet, and the documents' examples."""
import contextlib
import datetime
import json
import re
import shutil
import struct
import subprocess
import sys
import types

import pytest
from client_harness import CLIENTS, Middleman, score_rows, served, short_polls  # noqa: F401
from harness import BIN, MODELS, PATIENCE, Broker
import assay.parquet
from assay import Client
from assay.parquet import rows_from_parquet


# ---- the C program ----

def test_c_program(served):
    done = score_rows(served.endpoint, "What is 3 + 4?", "ids:1,2,3")
    assert done.returncode == 0, done.stderr
    expected = Client(served.endpoint).score([{"text": "What is 3 + 4?"}, {"ids": [1, 2, 3]}])
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [i for i, _ in lines] == ["0", "1"]
    assert [struct.pack("<f", float(score)) for _, score in lines] == [struct.pack("<f", row["score"]) for row in expected]


def test_c_program_says_what_is_wrong(served):
    done = score_rows(served.endpoint, "ids:1", "ids:", "ids:-1")
    assert done.returncode == 1
    assert re.fullmatch(r"0\t\S+\n1\tno_tokens: .+\n2\tbad_token: .+\n", done.stdout), done.stdout
    for arguments, status, words in [((), 64, "ENDPOINT"), ((served.endpoint, "ids:1,,2"), 64, "row 0"),
                                     ((served.endpoint, "ids:1x"), 64, "found 'ids:1x'"), (("nowhere", "ids:1"), 64, "nowhere")]:
        done = score_rows(*arguments)
        assert done.returncode == status and words in done.stderr and done.stdout == ""


def test_c_program_through_a_restart(directory):
    """The broker is killed with the request in its hands: the same bytes go out again."""
    with Broker(directory / "d") as broker:
        (expected,) = Client(broker.endpoint).score([{"ids": [1, 2, 3]}])
        with Middleman(broker, kill_at={"score": (1,)}) as middle:
            done = score_rows(middle.endpoint, "ids:1,2,3")
        assert done.returncode == 0 and "no reply" in done.stderr
        assert len(middle.requests) == 2 and len(set(middle.requests)) == 1
        assert struct.pack("<f", float(done.stdout.split("\t")[1])) == struct.pack("<f", expected["score"])


def test_c_program_needs_nothing_of_assay(directory):
    """Compiled where there is no other file."""
    shutil.copy(CLIENTS / "score_rows.c", directory)
    name = "msgpack-c" if subprocess.run(["pkg-config", "--exists", "msgpack-c"]).returncode == 0 else "msgpack"
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libzmq", name], capture_output=True, text=True, check=True)
    subprocess.run(["cc", "-o", "score_rows", "score_rows.c", *flags.stdout.split()], cwd=directory, check=True)
    assert score_rows(program=directory / "score_rows").returncode == 64


# ---- the package ----

def test_package_installs(directory):
    """With pip, into a folder of its own, nothing left behind in the source; its version is the program's."""
    shutil.copytree(CLIENTS, directory / "clients", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(path.name for path in (directory / "clients").iterdir())
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target",
                    directory / "site", directory / "clients"], check=True, timeout=120 * PATIENCE)
    assert sorted(path.name for path in (directory / "clients").iterdir()) == before
    installed = directory / "site/assay"
    assert (installed / "py.typed").exists()
    assert {path.name for path in installed.glob("*.py")} == {path.name for path in (CLIENTS / "assay").glob("*.py")}
    words = "import assay, assay.trl_reward, assay.openrlhf_reward, assay.verl_reward, assay.parquet; print(assay.__file__, assay.__version__)"
    done = subprocess.run([sys.executable, "-c", words], cwd=directory, env={"PYTHONPATH": directory / "site"}, capture_output=True, text=True)
    program = subprocess.run([BIN / "assay", "--version"], capture_output=True, text=True, check=True).stdout
    assert done.stdout.split() == [str(installed / "__init__.py"), program.split()[1]], done.stderr


class FakeParquet:
    """What of pyarrow's ParquetFile the package uses: names, and batches of records."""

    def __init__(self, records):
        self.records, self.schema_arrow, self.asked = records, types.SimpleNamespace(names=list(records[0])), []

    def ParquetFile(self, path):
        return contextlib.nullcontext(self)

    def iter_batches(self, batch_size, columns):
        self.asked.append(columns)
        for record in self.records:
            yield types.SimpleNamespace(to_pylist=lambda: [{name: record[name] for name in columns or record}])


@pytest.fixture
def parquet(monkeypatch):
    def put(records):
        file = FakeParquet(records)
        monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=file))
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", file)
        return file
    return put


def test_rows_of_parquet(served, parquet):
    """tests/clients/checks has pyarrow's own."""
    ask = [{"role": "user", "content": "3 + 4 = ?", "tool_calls": None}]
    file = parquet([{"instruction": ask, "output": "7", "source": "x", "system": None}, {"instruction": ask, "output": "8", "source": "y", "system": "Add."}])
    with pytest.raises(ValueError, match=r"found \['output', 'source'\]"):
        next(rows_from_parquet("f"))
    with pytest.raises(ValueError, match=r"columns \['answer'\], found"):
        next(rows_from_parquet("f", {"response": "answer"}))
    rows = list(rows_from_parquet("f", {"prompt": "instruction", "response": "output", "system": "system"}))
    ask = [{"role": "user", "content": "3 + 4 = ?"}]
    assert rows == [{"prompt": ask, "response": "7"}, {"prompt": ask, "response": "8", "system": "Add."}]
    assert file.asked == [["instruction", "output", "system"]]
    assert all(row["error"] is None for row in Client(served.endpoint).score(rows))


def test_lines_of_parquet(parquet, capsys):
    day = datetime.date(2026, 1, 31)
    file = parquet([{"prompt": "a\n", "n": 1.5, "day": day, "none": None, "image": b"x"}])
    assert assay.parquet.main(["--columns", "prompt,n,day,none", "f"]) == 0
    assert json.loads(capsys.readouterr().out) == {"prompt": "a\n", "n": 1.5, "day": "2026-01-31", "none": None}
    for arguments, code, words in [(["f"], 65, "f: row 1: column 'image': expected what JSON can hold, found bytes"), ([], 64, "usage"),
                                   (["--columns", "prompt,no", "f"], 65, "['no']"), (["--colums", "a", "f"], 64, "usage")]:
        assert assay.parquet.main(arguments) == code and words in capsys.readouterr().err
    file.records = []
    assert assay.parquet.main(["f", "f"]) == 0 and capsys.readouterr().out == ""


# ---- the documents ----

def test_search_as_printed(directory):
    """Its two best beams are right sums: their lowest step is above the wrong ones'."""
    example = re.search(r"## Search.*?```python\n(.*?)```", (CLIENTS / "README.md").read_text(), re.S).group(1)
    assert "ipc://assay-data/broker.sock" in example
    with Broker(directory / "d", model=MODELS / "demo-process", options=["--kv-cache", "16M"]) as broker, broker.client() as client:
        done = subprocess.run([sys.executable, "-c", example.replace("ipc://assay-data/broker.sock", broker.endpoint)], cwd=CLIENTS,
                              capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode == 0, done.stderr
        info = client.call("info")
        assert info["sessions"] == 0 and info["workers"][0]["reused"] > 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and lines[0].endswith("['3 + 4 = 7', '7 + 5 = 12']") and float(lines[0].split()[0]) > 0.5, lines


@pytest.mark.parametrize("example", [one for one in re.findall(r"```python\n(.*?)```", (CLIENTS / "README.md").read_text(), re.S)
                                     if "def propose" not in one], ids=["jobs", "asyncio"])
def test_readme_as_printed(served, example):
    assert "ipc://assay-data/broker.sock" in example
    done = subprocess.run([sys.executable, "-c", example.replace("ipc://assay-data/broker.sock", served.endpoint)], cwd=CLIENTS,
                          capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3, done.stdout
