"""--quant int8 and --dtype bf16 on the CPU, through the whole service: how far it moves the trained models' scores, and what is no number stays an error."""
import json
import os
import shutil
import struct
import subprocess
import sys

import pytest
from harness import BIN, MODELS, ROOT, Broker


def test_drift_of_the_trained_models():
    """A part of what `make quant-drift` measures. The same bits on every machine, so a bound that holds, holds."""
    done = subprocess.run([sys.executable, ROOT / "tests/bench/quant_drift.py", "--pairs", "600", "--json", "demo-reward", "demo-process"],
                          capture_output=True, text=True, env={**os.environ, "ASSAY_BIN": str(BIN)})
    assert done.returncode == 0, done.stdout + done.stderr
    found = [*map(json.loads, done.stdout.splitlines())]
    assert [(m["model"], m["way"]) for m in found] == [(name, way) for name in ("demo-reward", "demo-process") for way in ("int8", "bf16")]
    for m in found:
        assert m["pairs"] == 600 and m["same"] >= 0.995 and m["rank"] >= 0.999 and 0 < m["mean"] < 0.01 * m["spread"], m


def spoilt(directory, token, bits):
    """The reward model whose embedding of a token has a number of these bits."""
    shutil.copytree(MODELS / "reward", directory)
    file = directory / "model.safetensors"
    raw = bytearray(file.read_bytes())
    n = struct.unpack("<Q", raw[:8])[0]
    entry = json.loads(raw[8:8 + n])["model.embed_tokens.weight"]
    assert entry["dtype"] == "F32"
    struct.pack_into("<I", raw, 8 + n + entry["data_offsets"][0] + 4 * (entry["shape"][1] * token + 3), bits)
    file.write_bytes(raw)
    return directory


@pytest.mark.parametrize("bits", [0x7fc00000, 0x7f800000], ids=["nan", "infinity"])
def test_no_number_is_that_rows_error(directory, bits):
    model = spoilt(directory / "m", 300, bits)
    rows = [{"ids": [1, 2, 3]}, {"ids": [1, 300, 3]}, {"ids": [4, 5, 6, 9]}]
    for options in ([], ["--quant", "int8"], ["--dtype", "bf16"]):
        with Broker(directory / f"a{options}", model=MODELS / "reward", options=options) as broker, broker.client() as client:
            right = client.call("score", rows=rows)["rows"]
        with Broker(directory / f"b{options}", model=model, options=options) as broker, broker.client() as client:
            found = client.call("score", rows=rows)["rows"]
        assert found[1]["error"]["code"] == "non_finite", found
        assert [found[k]["score"] for k in (0, 2)] == [right[k]["score"] for k in (0, 2)]
