"""Every example of broker/OPERATION.md runs as printed."""
import os
import re
import signal
import subprocess

import pytest
from harness import BIN, PATIENCE, ROOT

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "broker/OPERATION.md").read_text(), re.S)


@pytest.mark.parametrize("n", range(len(BLOCKS)))
def test_example_as_printed(tmp_path, n):
    (tmp_path / "build/cpu").mkdir(parents=True)
    (tmp_path / "build/cpu/bin").symlink_to(BIN)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    env = {**os.environ, "HOME": str(tmp_path)}
    script = "set -e\n" + BLOCKS[n] + "wait\n"
    process = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    try:
        out, said = process.communicate(timeout=60 * PATIENCE)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    assert process.returncode == 0, (out, said)
