"""assay doctor: one line for each thing that a broker needs of the machine."""
import json
import os
import sqlite3
import subprocess
import time

import pytest
from harness import BIN, MODELS, PATIENCE, Broker

NAMES = {"versions", "cpu", "gpus", "/dev/shm", "open files", "locked memory", "data directory", "file system", "disk", "sync", "clock"}


def doctor(data, *more, bin=BIN, before=""):
    command = f"{before} exec '{bin}/assay' doctor --data '{data}' {' '.join(more)}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)


def checks(data, **more):
    done = doctor(data, "--json", **more)
    reply = json.loads(done.stdout)
    assert reply["ok"] == (done.returncode == 0)
    return {check["name"]: check for check in reply["checks"]}


def test_one_line_each(tmp_path):
    with Broker(tmp_path / "d") as broker, broker.client() as client:
        client.submit("k", [{"ids": [1, 2]}])
        before = sorted(path.name for path in broker.data.iterdir())
        done = doctor(broker.data)
        found = checks(broker.data)
        assert sorted(path.name for path in broker.data.iterdir()) == before  # it leaves nothing
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == len(NAMES) and set(found) == NAMES
    assert all(line.split()[0] in ("ok", "warning") for line in done.stdout.splitlines())
    assert all((check["advice"] is None) == (check["verdict"] == "ok") for check in found.values())
    assert "ms for a page" in found["sync"]["found"]


def test_a_directory_that_is_not_there_is_not_made(tmp_path):
    found = checks(tmp_path / "a/b/c")
    assert found["data directory"]["verdict"] == "ok" and "is not there" in found["data directory"]["found"]
    assert not (tmp_path / "a").exists() and found["sync"]["verdict"] == "ok"


@pytest.mark.parametrize("mode,verdict", [(0o700, "ok"), (0o755, "warning"), (0o770, "wrong"), (0o777, "wrong")])
def test_who_may_look_into_it(tmp_path, mode, verdict):
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(mode)
    assert checks(tmp_path / "d")["data directory"]["verdict"] == verdict


def test_another_s_directory(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("not root: cannot give a directory away")
    (tmp_path / "d").mkdir(mode=0o700)
    os.chown(tmp_path / "d", 12345, 12345)
    assert checks(tmp_path / "d")["data directory"]["verdict"] == "wrong"


def test_limits(tmp_path):
    assert checks(tmp_path, before="ulimit -n 100;")["open files"]["verdict"] == "wrong"
    assert checks(tmp_path, before="ulimit -n 1024;")["open files"]["verdict"] == "warning"


def test_programs_that_are_missing(tmp_path):
    (tmp_path / "bin").mkdir()
    os.link(BIN / "assay", tmp_path / "bin/assay") if os.stat(BIN).st_dev == os.stat(tmp_path).st_dev else \
        (tmp_path / "bin/assay").write_bytes((BIN / "assay").read_bytes())
    (tmp_path / "bin/assay").chmod(0o755)
    found = checks(tmp_path, bin=tmp_path / "bin")
    assert found["programs"]["verdict"] == "wrong"


def test_a_clock_that_is_behind(tmp_path):
    """The database knows of a later time."""
    with Broker(tmp_path / "d") as broker, broker.client() as client:
        client.submit("k", [{"ids": [1, 2]}])
        client.results("k")
    with sqlite3.connect(tmp_path / "d/assay.db") as db:
        db.execute("update job set finished_ms = ?", (int((time.time() + 3600) * 1000),))
    db.close()
    found = checks(tmp_path / "d")
    assert found["clock"]["verdict"] == "wrong" and "behind" in found["clock"]["found"]


def test_a_small_dev_shm_is_no_fault(directory):
    """Batches need none of it, with ranks neither; so doctor does not say that they do."""
    can = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    if not can or os.geteuid() != 0:
        pytest.skip("no right to mount a small /dev/shm")
    (directory / "in.jsonl").write_text('{"ids": [1, 2, 3]}\n')
    script = f"mount -t tmpfs -o size=4k none /dev/shm && '{BIN}/assay' score in.jsonl -o out.jsonl --tp 2 --model '{MODELS}/demo-reward' && '{BIN}/assay' doctor --data d"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=directory, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert '"score":' in (directory / "out.jsonl").read_text(), done
    line = next(one for one in done.stdout.splitlines() if "/dev/shm" in one)
    assert line.startswith("ok") or "NCCL" in line, line
