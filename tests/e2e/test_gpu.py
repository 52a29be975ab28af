"""Broker, shared memory and the GPU's worker, end to end. The worker is the real one on doubles of CUDA's libraries
(tests/kernels/README.md), which stand for as many devices as a test asks for."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, Refused, ids_bytes, random_key, vectors, wait_until
from test_checkpoints import read, write

WORKER = BIN.parent / "kernels/assay-worker-cuda"
VECTORS = vectors()


@pytest.fixture
def installed(directory):
    """A directory of programs as an installation with GPUs has it; the broker looks beside itself."""
    programs = pathlib.Path(directory) / "bin"
    programs.mkdir()
    shutil.copy(BIN / "assayd", programs)
    os.symlink(BIN / "assay-worker", programs / "assay-worker")
    os.symlink(WORKER, programs / "assay-worker-cuda")
    return programs


class GpuBroker(Broker):
    def __init__(self, installed, model="bf16", options=(), devices=1, name="d", **env):
        env = {"ASSAY_DOUBLE_THREAD": "1", "ASSAY_DOUBLE_DEVICES": str(devices), **env}
        super().__init__(installed.parent / name, model=MODELS / model, options=options, env=env)
        self.command[0] = str(installed / "assayd")

    def refusal(self):
        """Exit code and last words of a broker that does not start."""
        done = subprocess.run(self.command, env=self.env, capture_output=True, text=True, timeout=30 * PATIENCE)
        return done.returncode, done.stderr.splitlines()[-1]


def flat(row):
    found = row.get("score", row.get("scores", row.get("steps")))
    if not isinstance(found, list):
        return [found]
    return [v for item in found for v in (item if isinstance(item, list) else [item])]


def rows_of(name, longest=120 if PATIENCE == 1 else 40):
    """The oracle's rows as requests, without the longest: a device made of fibers is slow, most of all under sanitizers."""
    kept = [row for row in VECTORS[name]["rows"] if len(row["ids"]) <= longest]
    return kept, [{"ids": ids_bytes(row["ids"]), **({"pool": row["pool"]} if "pool" in row else {})} for row in kept]


@pytest.mark.parametrize("name,options,devices", [
    ("reward", [], 1),
    ("process", ["--device", "cuda"], 1),
    ("process", ["--tp", 4], 4),
    ("reward", ["--tp", 2, "--devices", "3,1,0,2"], 4),
    ("reward", ["--tp", 2, "--pp", 2], 4),
])
def test_scores_agree_with_the_oracle(installed, name, options, devices):
    expected, rows = rows_of(name)
    with GpuBroker(installed, VECTORS[name]["model"], options, devices) as broker, broker.client() as client:
        found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        again = client.call("score", rows=rows[::-1], timeout_ms=60000, timeout=90)["rows"][::-1]
        for row, twin, right in zip(found, again, expected):
            assert row["error"] is None, row
            assert flat(row) == flat(twin)
            assert max(abs(a - b) for a, b in zip(flat(row), right["values"])) <= 1e-4
        query = "select device from workers where state = 'ready'"
        seen = wait_until(lambda: len(broker.sql(query)) == devices and broker.sql(query))
        assert all(re.fullmatch(r"cuda:\d \(Test Double\)", device) for device, in seen)
        if "--devices" in options:  # two copies on the four listed
            assert sorted(device[5] for device, in seen) == ["0", "1", "2", "3"]
        mode = client.call("hello")["mode"]
        assert re.fullmatch(r'device=cuda arithmetic=3 gpu="Test Double" gemm=[0-9a-f]{16} dtype=f32 quant=none tp=\d pp=1', mode)


@pytest.mark.parametrize("name,tp", [("lm-softmax", 2), ("value-head", 1), ("openrlhf", 2), ("mistral-token", 1)])
def test_heads_agree_with_the_oracle(installed, name, tp):
    expected, rows = rows_of(name, longest=40)
    head = ["--head", VECTORS[name]["head"]] if "head" in VECTORS[name] else []
    with GpuBroker(installed, name, ["--tp", tp, *head], tp) as broker, broker.client() as client:
        found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        assert client.call("hello")["mode"].startswith("device=cuda ")
    for row, right in zip(found, expected, strict=True):
        assert row["error"] is None, row
        assert max(abs(a - b) for a, b in zip(flat(row), right["values"], strict=True)) <= 1e-4


def test_adapters_agree_with_the_oracle(installed):
    """Rows of the base and of each adapter in one batch, on two ranks."""
    vector = json.loads((ROOT / "tests/vectors/lora/reward.json").read_text())
    expected = [row for row in vector["rows"] if len(row["ids"]) <= 40]
    rows = [{"ids": ids_bytes(row["ids"]), "pool": row["pool"], **({"adapter": row["adapter"]} if row["adapter"] else {})}
            for row in expected]
    loras = [word for name in vector["adapters"] for word in ("--lora", f"{name}={MODELS / f'lora/reward-{name}'}")]
    with GpuBroker(installed, "reward", ["--tp", 2, *loras], 2) as broker, broker.client() as client:
        found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        assert client.call("hello")["mode"].startswith("device=cuda ")
    for row, right in zip(found, expected, strict=True):
        assert row["error"] is None, row
        assert max(abs(a - b) for a, b in zip(flat(row), right["values"], strict=True)) <= 1e-4


def relative_error(found, expected):
    """Of all values, as a part of the expected ones' spread."""
    pairs = [(a, b) for row, right in zip(found, expected, strict=True) for a, b in zip(flat(row), right["values"], strict=True)]
    mean = sum(b for _, b in pairs) / len(pairs)
    return (sum((a - b) ** 2 for a, b in pairs) / sum((b - mean) ** 2 for _, b in pairs)) ** 0.5


@pytest.mark.parametrize("vector,tp,options,mode", [
    ("quantized/gptq-int4", 1, [], "dtype=bf16 quant=gptq-int4 tp=1"),
    ("quantized/awq-int4", 2, [], "dtype=bf16 quant=awq-int4 tp=2"),
    ("quantized/float-fp8-dynamic", 1, ["--activations", "weights-only"], "quant=float-quantized-fp8 tp=1 pp=1 activations=weights-only"),
    ("rounded/float-fp8-dynamic", 1, ["--activations", "as-stored"], "quant=float-quantized-fp8 tp=1 pp=1 activations=as-stored"),
    ("rounded/int-int8-static", 1, ["--activations", "as-stored"], "quant=int-quantized-int8 tp=1 pp=1 activations=as-stored"),
    ("rounded/fp8-token", 2, ["--activations", "as-stored"], "quant=fp8-tensor tp=2 pp=1 activations=as-stored"),
])
def test_quantized_checkpoints_agree_with_the_oracle(installed, vector, tp, options, mode):
    """Sixteen bits where the oracle has 32: test_gpu_quantized.c bounds each model's error."""
    vector = json.loads((ROOT / f"tests/vectors/{vector}.json").read_text())
    expected = [row for row in vector["rows"] if len(row["ids"]) <= 40]
    rows = [{"ids": ids_bytes(row["ids"]), **({"pool": row["pool"]} if "pool" in row else {})} for row in expected]
    with GpuBroker(installed, vector["model"], ["--tp", tp, *options], tp) as broker, broker.client() as client:
        found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        assert mode in client.call("hello")["mode"]
    assert all(row["error"] is None for row in found)
    assert 0 < relative_error(found, expected) < 0.1


def widened(into, model):
    """A copy whose embedding is float32, and so the type of its products on GPUs."""
    shutil.copytree(MODELS / model, into)
    header, body = read(into / "model.safetensors")
    out = b""
    for name in sorted((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        part = body[begin:end]
        if name == "model.embed_tokens.weight":
            header[name]["dtype"] = "F32"
            part = b"".join(b"\0\0" + part[i:i + 2] for i in range(0, len(part), 2))
        header[name]["data_offsets"] = [len(out), len(out) + len(part)]
        out += part
    write(into / "model.safetensors", header, out)
    return into


@pytest.mark.parametrize("name,tp", [("int-int8-static", 1), ("pack-int4-dynamic", 1), ("float-fp8-groups", 2), ("fp8-blocks", 1),
                                     ("fp8-tensor", 2), ("fp8-token", 2), ("int-int8-dynamic", 2)])
def test_rounded_activations_agree_with_the_oracle(installed, name, tp):
    """In float32, where nothing else is rounded."""
    vector = json.loads((ROOT / f"tests/vectors/rounded/{name}.json").read_text())
    rows = [{"ids": ids_bytes(row["ids"])} for row in vector["rows"]]
    model = widened(installed.parent / "m", vector["model"])
    with GpuBroker(installed, model, ["--activations", "as-stored", "--tp", tp], tp) as broker, broker.client() as client:
        found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        assert " dtype=f32 " in client.call("hello")["mode"]
    for row, right in zip(found, vector["rows"], strict=True):
        assert row["error"] is None, row
        assert max(abs(a - b) for a, b in zip(flat(row), right["values"], strict=True)) <= 1e-4, (flat(row), right["values"])


@pytest.mark.parametrize("model,options,env,words", [
    ("float-fp8-dynamic", [], {}, "says that activations are quantized too"),
    ("float-fp8-dynamic", ["--activations", "as-stored"], {"ASSAY_DOUBLE_CAPABILITY": "80"},
     "as-stored needs it too: expected weights-only"),
    ("float-fp8-dynamic", ["--activations", "as-stored", "--tp", "2"], {"ASSAY_DOUBLE_DEVICES": "2"}, "which it would round to FP8 by itself"),
    ("gptq-int4", ["--quant", "int8"], {}, "--quant int8: the checkpoint is quantized already (gptq-int4)"),
])
def test_quantized_checkpoints_that_are_refused(installed, model, options, env, words):
    code, found = GpuBroker(installed, f"quantized/{model}", options, **env).refusal()
    assert code == 78 and words in found, found


@pytest.mark.parametrize("name,tp", [("bf16", 1), ("reward", 2)])
def test_rows_that_share_their_beginning(installed, name, tp):
    """The same bytes as without sharing, and fewer tokens are computed."""
    prompts = [[20 + (7 * p + k) % 200 for k in range(n)] for p, n in enumerate((40, 64, 70))]
    rows = [{"ids": ids_bytes(prompt + [30 + r, 40, 41 + r]), "pool": {"type": pool}}
            for prompt in prompts for r, pool in enumerate(("LAST", "ALL", "MEAN", "CLS"))]
    found = {}
    for extra in ((), ("--no-prefix-sharing",)):
        options = ["--tp", tp, *extra]
        with GpuBroker(installed, name, options, tp, name=f"d{len(extra)}") as broker, broker.client(timeout=90) as client:
            client.submit("job", rows)
            done = sorted(client.results("job"), key=lambda row: row["i"])
            found[extra] = done, broker.sql("select sum(tokens) from batches where ok")[0][0]
    (together, tokens), (apart, all_tokens) = found.values()
    assert together == apart and all(row["error"] is None for row in together)
    assert (tokens, all_tokens) == (40 + 64 + 70 + 36, 4 * (40 + 64 + 70) + 36)


def test_a_kv_cache_changes_no_score(installed):
    """Rows that begin as earlier ones did, some longer than the batch that is computed at once."""
    begin = [20 + k * 7 % 200 for k in range(70)]
    rows = [{"ids": ids_bytes(begin + [30 + r] * (r + 1))} for r in range(4)]
    found = {}
    for extra in ((), ("--kv-cache", "4M", "--max-batch-tokens", "48")):
        with GpuBroker(installed, "bf16", extra, name=f"d{len(extra)}") as broker, broker.client(timeout=90) as client:
            turns = [client.call("score", rows=rows[i:i + 2], timeout_ms=60000, timeout=90)["rows"] for i in (0, 2)]
            found[extra] = [flat(row) for turn in turns for row in turn], client.call("hello")["mode"]
            reused = sum(worker["reused"] for worker in client.call("info")["workers"])
            assert (reused >= 64) == bool(extra)
    assert len({str(v) for v in found.values()}) == 1


def test_pipeline_stages_change_no_score(installed):
    """Many batches through two stages, one of which dies: the same values and the same mode as of one."""
    rows = [{"ids": [k % 250, 3, 5, 7 + k % 60] * 6} for k in range(40)]
    found = {}
    for options in (["--pp", 1], ["--pp", 2], ["--pp", 2, "--kv-cache", "4M"]):
        options += ["--max-batch-tokens", 64, "--hang-ms", 5000]
        with GpuBroker(installed, "bf16", options, devices=2, name=f"d{len(found)}") as broker, broker.client(timeout=90) as client:
            client.submit("job", rows)
            if "--kv-cache" in options:
                os.kill(wait_until(lambda: broker.sql("select pid from workers where rank = 1 and state = 'ready'"))[0][0], signal.SIGKILL)
            done = sorted(client.results("job", timeout=90), key=lambda row: row["i"])
            assert all(row["error"] is None for row in done)
            found[str(options)] = [flat(row) for row in done], client.call("hello")["mode"]
    assert len({str(v) for v in found.values()}) == 1


def test_auto_without_a_device_is_the_cpu_and_says_so(installed):
    with GpuBroker(installed, devices=0) as broker, broker.client() as client:
        assert client.call("hello")["mode"].startswith("device=cpu ")
        assert client.call("score", rows=[{"ids": [1, 2, 3]}], timeout_ms=20000)["rows"][0]["error"] is None
        lines = [line for line in broker.words().splitlines() if "event=devices" in line]
        assert len(lines) == 1 and "device=cpu" in lines[0] and "no CUDA-capable device is detected" in lines[0]


def test_devices_that_are_too_old_are_as_none(installed):
    with GpuBroker(installed, devices=1, ASSAY_DOUBLE_OLD="1") as broker, broker.client() as client:
        assert client.call("hello")["mode"].startswith("device=cpu ")
        assert "expected compute capability 8.0 or newer, found 7.5" in broker.words()
    with GpuBroker(installed, devices=3, ASSAY_DOUBLE_OLD="2", name="e") as broker, broker.client() as client:
        assert client.call("hello")["mode"].startswith("device=cuda ")
        assert wait_until(lambda: broker.sql("select device from workers where state = 'ready'")) == [("cuda:2 (Test Double)",)]


@pytest.mark.parametrize("devices,odd,options,used", [(3, 1, [], "02"), (3, 9, ["--tp", 2], "01"), (3, 9, ["--replicas", 2], "01")])
def test_all_devices_of_one_kind_are_used(installed, devices, odd, options, used):
    with GpuBroker(installed, options=options, devices=devices, ASSAY_DOUBLE_ODD=str(odd)) as broker, broker.client() as client:
        assert client.call("score", rows=[{"ids": [1, 2, 3]}], timeout_ms=20000)["rows"][0]["error"] is None
        query = "select device from workers where state = 'ready' order by device"
        assert wait_until(lambda: (lambda found: len(found) == len(used) and found)(broker.sql(query))) == [
            (f"cuda:{index} (Test Double)",) for index in used]
        copies = len(used) // (2 if "--tp" in options else 1)
        line = next(line for line in broker.words().splitlines() if "event=devices" in line)
        assert f"used={len(used)} of=3" in line and f"replicas={copies}" in line


def test_auto_without_the_worker_is_the_cpu(installed):
    (installed / "assay-worker-cuda").unlink()
    with GpuBroker(installed) as broker, broker.client() as client:
        assert client.call("hello")["mode"].startswith("device=cpu ")
        assert "assay-worker-cuda is not installed" in broker.words()
    code, words = GpuBroker(installed, options=["--device", "cuda"], name="e").refusal()
    assert code == 78 and "assay-worker-cuda is not installed" in words


@pytest.mark.parametrize("options,devices,env,words", [
    (["--device", "cuda"], 0, {}, "--device cuda: GPU: no CUDA-capable device is detected"),
    (["--devices", "0"], 0, {}, "no CUDA-capable device is detected"),
    (["--tp", 4], 2, {}, "expected 4 GPUs, one for each rank, found 2 (0 Test Double, 1 Test Double)"),
    (["--tp", 2, "--replicas", 2], 3, {}, "expected 4 GPUs, one for each rank, found 3"),
    (["--tp", 2, "--devices", "0,1,2"], 4, {}, "expected 2 GPUs, one for each rank, found 3 in --devices"),
    (["--tp", 2, "--pp", 2], 2, {}, "--tp 2 --pp 2 --replicas 1: expected 4 GPUs, one for each rank, found 2"),
    (["--pp", 3], 3, {}, "pp 3 does not fit: expected at least 1 and at most"),
    (["--devices", "7"], 2, {}, "there is no GPU 7 to use; found 0 Test Double, 1 Test Double"),
    (["--devices", "0"], 2, {"ASSAY_DOUBLE_OLD": "1"}, "there is no GPU 0 to use; found 1 Test Double; GPU 0 (Test Double): expected"),
    (["--tp", 2], 2, {"ASSAY_DOUBLE_ODD": "1"}, "GPU 0 is Test Double, GPU 1 is Other Double"),
    (["--quant", "fp8"], 1, {"ASSAY_DOUBLE_CAPABILITY": "80"}, "--quant fp8: expected a GPU of compute capability 9.0,"),
    (["--quant", "fp8", "--device", "cpu"], 1, {}, "--quant fp8: the CPU does not have it; expected none or int8, or a GPU"),
    (["--dtype", "bf16"], 1, {}, "--dtype bf16: a GPU computes in the checkpoint's own type; expected auto, or --device cpu"),
    (["--dtype", "f32"], 1, {}, "--dtype f32: a GPU computes in the checkpoint's own type; expected auto, or --device cpu"),
    ([], 1, {"ASSAY_DOUBLE_FAIL": "cublasLtMatmulAlgoGetHeuristic:1:15"}, "cuBLASLt offers none on this device"),
    ([], 1, {"ASSAY_DOUBLE_FAIL": "cublasLtMatmul:45:14"}, "event=gpu_error"),  # after lines about algorithms
    ([], 1, {"ASSAY_DOUBLE_OFFER": "DROPS"}, "usable and right; row "),
    ([], 1, {"ASSAY_DOUBLE_FREE": "1"}, "event=no_room_to_try gpu=0 n="),
    ([], 1, {"ASSAY_DOUBLE_SPOIL": "rope_kernel"}, "GPU 0 (Test Double) computes wrong numbers: rope of f32 to f32, row "),
    (["--device", "cuda"], 1, {"ASSAY_DOUBLE_CAPABILITY": "75"}, "GPU 0 (Test Double): expected compute capability 8.0 or newer, found 7.5"),
])
def test_refused_before_anything_starts(installed, options, devices, env, words):
    code, found = GpuBroker(installed, options=options, devices=devices, **env).refusal()
    assert code == 78 and words in found, found
    assert not (installed.parent / "d/assay.db").exists()


@pytest.mark.parametrize("options,words", [
    (["--devices", "0,0"], "GPU 0 is named twice"),
    (["--devices", "0,"], "expected different device numbers"),
    (["--devices", "a"], "expected different device numbers"),
    (["--quant", "fp4"], "expected none, fp8 or int8, found 'fp4'"),
    (["--dtype", "f16"], "expected auto, f32 or bf16, found 'f16'"),
    (["--isa", "avx512b"], "expected auto, avx512bf16, avx512vnni, avx512, avx2 or portable, found 'avx512b'"),
    (["--device", "gpu"], "expected auto, cpu or cuda, found 'gpu'"),
    (["--device", "cpu", "--devices", "0"], "expected no list with --device cpu"),
])
def test_bad_options(installed, options, words):
    code, found = GpuBroker(installed, options=options).refusal()
    assert code == 64 and words in found, found


@pytest.mark.parametrize("call,code,tp", [
    ("launch", 700, 1), ("cudaMemcpyAsync", 719, 1), ("cublasLtMatmul", 14, 1), ("cudaEventQuery", 700, 1),
    ("ncclSend", 1, 2), ("ncclRecv", 6, 2),
])
def test_a_failing_call_restarts_the_group_and_the_rows_run_again(installed, call, code, tp):
    marker = installed.parent / "fail"
    env = {"ASSAY_DOUBLE_FAIL": f"{call}:40:{code}", "ASSAY_DOUBLE_FAIL_ONCE": str(marker)}
    rows = [{"ids": [k % 250, 3, 5, 7 + k]} for k in range(40)]
    options = ["--tp", tp, "--max-batch-tokens", 16, "--hang-ms", 5000]
    with GpuBroker(installed, "bf16", options, devices=tp, **env) as broker, broker.client() as client:
        before = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        for turn in range(3):
            marker.touch()
            after = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
            assert not marker.exists()
            assert [flat(row) for row in before] == [flat(row) for row in after]
            assert all(row["error"] is None for row in after)
            wait_until(lambda: broker.sql("select max(restarts) from workers") == [(turn + 1,)])
        assert "(exit code 74: the GPU" in broker.words() and "event=gpu_error" in broker.words()


def test_a_driver_that_hangs_is_not_waited_for_for_ever(installed):
    (installed / "assay-worker-cuda").unlink()
    (installed / "assay-worker-cuda").write_text(f"#!/bin/sh\n[ $1 = --devices ] && exec {WORKER} --devices\nexec sleep 100\n")
    (installed / "assay-worker-cuda").chmod(0o755)
    code, words = GpuBroker(installed, options=["--start-ms", 1000]).refusal()
    assert code == 78 and "assay-worker-cuda --describe did not end, and said nothing for 1 s" in words


def test_a_long_description_that_tells_how_far_it_is_is_waited_for(installed):
    (installed / "assay-worker-cuda").unlink()
    (installed / "assay-worker-cuda").write_text(
        f"#!/bin/sh\n[ $1 = --describe ] && for i in $(seq {int(8 * PATIENCE)}); do echo digest >&2; sleep 0.5; done\nexec {WORKER} \"$@\"\n")
    (installed / "assay-worker-cuda").chmod(0o755)
    with GpuBroker(installed, options=["--start-ms", int(3000 * PATIENCE)]) as broker, broker.client() as client:
        assert client.call("hello")["mode"].startswith("device=cuda ")


def test_a_large_model_may_take_longer_to_start(installed):
    """Its description says 300 MiB, which are three seconds, and its rank never comes."""
    (installed / "assay-worker-cuda").unlink()
    (installed / "assay-worker-cuda").write_text(
        f"#!/bin/sh\ncase $1 in --devices) exec {WORKER} --devices;; esac\n"
        f"[ $1 = --describe ] && {{ {WORKER} \"$@\" | sed 's/\"weight_bytes\":[0-9]*/\"weight_bytes\":314572800/'; exit; }}\n"
        "exec sleep 100\n")
    (installed / "assay-worker-cuda").chmod(0o755)
    limit_ms = int(1500 * PATIENCE)
    with GpuBroker(installed, options=["--start-ms", limit_ms]) as broker:
        began = time.monotonic()
        wait_until(lambda: "not ready in time" in broker.words())
        assert time.monotonic() - began > 2.5 + limit_ms / 1000


def test_a_choice_that_cannot_be_written_down_is_refused_by_name(installed):
    remembered = installed.parent / "d/gemm-algorithms.txt"
    remembered.parent.mkdir(mode=0o700)
    remembered.mkdir()
    code, words = GpuBroker(installed).refusal()
    assert code == 78 and str(remembered) in words and "cannot write the choice of algorithms there" in words


def test_ranks_that_choose_otherwise_end_the_broker(installed):
    """A worker that forgets what the description chose: its mode is another."""
    (installed / "assay-worker-cuda").unlink()
    (installed / "assay-worker-cuda").write_text(
        f"#!/bin/sh\ncase $1 in --devices|--describe) exec {WORKER} \"$@\";; esac\nexec {BIN}/assay-worker \"$@\"\n")
    (installed / "assay-worker-cuda").chmod(0o755)
    with GpuBroker(installed) as broker:
        assert broker.process.wait(20 * PATIENCE) == 78
        assert "rank 0 computes otherwise than expected" in broker.words().splitlines()[-1]


def test_a_group_that_cannot_start_does_not_end_those_that_can(installed):
    """The second of two devices falls off the bus after the description."""
    (installed / "assay-worker-cuda").unlink()
    (installed / "assay-worker-cuda").write_text(
        f"#!/bin/sh\ncase $1 in --devices|--describe) exec {WORKER} \"$@\";; esac\n"
        f"case \"$*\" in *'--gpu 1'*) exit 78;; esac\nexec {WORKER} \"$@\"\n")
    (installed / "assay-worker-cuda").chmod(0o755)
    with GpuBroker(installed, options=["--devices", "0,1"], devices=2) as broker, broker.client() as client:
        wait_until(lambda: broker.sql("select restarts from workers where restarts >= 4"))
        assert client.call("score", rows=[{"ids": [1, 2, 3]}], timeout_ms=20000)["rows"][0]["error"] is None
        assert broker.process.poll() is None


def test_a_second_broker_writes_nothing(installed):
    with GpuBroker(installed) as broker:
        remembered = installed.parent / "d/gemm-algorithms.txt"
        remembered.unlink()
        code, words = GpuBroker(installed).refusal()
        assert code == 75 and f"is held by another broker, pid {broker.process.pid}" in words
        assert not remembered.exists()


def test_remembered_algorithms_that_the_library_refuses_are_chosen_anew(installed):
    with GpuBroker(installed) as broker, broker.client() as client:
        mode = client.call("hello")["mode"]
    remembered = installed.parent / "d/gemm-algorithms.txt"
    remembered.write_text("".join("ff" + line[2:] for line in remembered.read_text().splitlines(True)))
    with GpuBroker(installed) as broker, broker.client() as client:
        assert client.call("hello")["mode"] == mode
        assert client.call("score", rows=[{"ids": [1, 2, 3]}], timeout_ms=20000)["rows"][0]["error"] is None


def test_a_killed_rank_is_a_new_group(installed):
    rows = [{"ids": [k % 250, 3, 5, 7 + k % 60] * 6} for k in range(60)]
    options = ["--tp", 2, "--max-batch-tokens", 64, "--hang-ms", 5000]
    with GpuBroker(installed, "bf16", options, devices=2) as broker, broker.client() as client:
        before = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        for rank in range(2):
            key = random_key()
            pids = dict(wait_until(lambda: (lambda found: len(found) == 2 and found)(
                broker.sql("select rank, pid from workers where state = 'ready'"))))
            client.submit(key, rows)
            os.kill(pids[rank], signal.SIGKILL)
            after = sorted(client.results(key, timeout=90), key=lambda row: row["i"])
            assert [flat(row) for row in after] == [flat(row) for row in before]
            wait_until(lambda: broker.sql("select max(restarts) from workers") == [(rank + 1,)])


@pytest.mark.parametrize("quant", ["fp8", "int8"])
def test_quantized_scores_are_near_and_their_mode_says_so(installed, quant):
    expected, rows = rows_of("seqcls")
    with GpuBroker(installed, "seqcls", ["--quant", quant]) as broker, broker.client() as client:
        assert f" dtype=bf16 quant={quant} tp=1" in client.call("hello")["mode"]
        found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        errors = [abs(a - b) for row, right in zip(found, expected) for a, b in zip(flat(row), right["values"])]
        assert 1e-4 < max(errors) < 1, max(errors)


def test_a_job_of_another_device_is_held_until_that_is_accepted(installed):
    key, rows = random_key(), [{"ids": [k, 2, 3]} for k in range(4)]
    with GpuBroker(installed) as broker, broker.client() as client:
        mode = client.call("hello")["mode"]
        client.submit(key, rows, seal=False)
        wait_until(lambda: client.call("status", job=key)["done"] == 4)
    with GpuBroker(installed) as broker, broker.client() as client:  # what was chosen is remembered
        assert client.call("hello")["mode"] == mode
        assert "event=algorithm" not in broker.words().split("event=stopped")[-1].split("\n", 1)[1]
    with GpuBroker(installed, options=["--device", "cpu"]) as broker, broker.client() as client:
        status = client.call("status", job=key)
        assert status["done"] == 4 and "device=cuda" in status["reason"]
        with pytest.raises(Refused, match="wrong_state.*held"):
            client.submit(key, rows, chunk=1)
        client.call("resume", job=key, accept_mode=True)
        client.submit(key, rows, chunk=1)
        assert len(client.results(key)) == 8
