"""What is run on the first day on a GPU, here on the doubles: the programs work, and say plainly when there is no device."""
import os
import subprocess
import sys

import pytest
from harness import BIN, PATIENCE, ROOT

KIT, KERNELS = BIN.parent / "kit", BIN.parent / "kernels"


def run(script, *arguments, devices=1):
    # The benchmarks leave the device's memory to the end of the process, which the doubles take from the host.
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "ASSAY_DOUBLE_THREAD": "1", "ASSAY_DOUBLE_DEVICES": str(devices)}
    command = [sys.executable, ROOT / "tests/gpu" / script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120 * PATIENCE)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def programs(tmp_path):
    """The kit's programs and the tests that go with them, in one directory as make gpu-programs leaves them."""
    for path in [*KIT.iterdir(), *KERNELS.iterdir()]:
        os.symlink(path, tmp_path / path.name)
    return tmp_path


@pytest.mark.parametrize("script", ["check.py", "bench.py"])
def test_no_device_is_said_plainly(programs, script):
    code, out, err = run(script, "--bin", programs, devices=0)
    assert code == 69 and not out
    assert "there is no device: GPU: no CUDA-capable device is detected" in err


def test_check_runs_and_counts(programs):
    code, out, _ = run("check.py", "--bin", programs, "--no-sanitizer", "--only", "test_unpack")
    assert code == 0 and "GPU 0: Test Double, compute capability 9.0" in out
    assert out.splitlines()[-1] == "1 passed, 0 failed"


def test_check_shows_what_failed(programs):
    (programs / "test_unpack").unlink()
    (programs / "test_unpack").write_text("#!/bin/sh\necho 'the row is wrong'; exit 3\n")
    (programs / "test_unpack").chmod(0o755)
    code, out, _ = run("check.py", "--bin", programs, "--no-sanitizer", "--only", "test_unpack")
    assert code == 1 and "FAILED test_unpack" in out and "the row is wrong" in out
    assert out.splitlines()[-1] == "0 passed, 1 failed"


def test_bench_prints_its_table(programs):
    code, out, err = run("bench.py", "--bin", programs, "--quick")
    assert code == 0, err
    assert "the figures mean nothing" in out
    names = {line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")}
    assert names >= {"a1", "a3", "a5", "d1", "kernel"}
