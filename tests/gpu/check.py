"""The checks of a machine with a GPU: kernels against their formulas, products, golden scores, a row's bits in any batch, tensor
parallelism on as many devices as there are, and the kernels under compute-sanitizer.

    check.py --bin DIR [--only WORD] [--no-sanitizer]

DIR has the programs that `make gpu-programs` builds. Run from the repository root. Exit code 0 when all passed, 1 when some
failed, 69 when there is no device.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

MODEL_TESTS = ("test_golden", "test_tensor_parallel", "test_tensor_parallel_heads", "test_batch_invariance", "test_quantized_scores",
               "test_quantized_rows_are_batch_invariant", "test_two_in_flight")
LORA_TESTS = ("test_golden", "test_tensor_parallel", "test_batch_invariance", "test_the_base_is_as_without_adapters", "test_low_precision")
QUANTIZED_TESTS = ("test_values_are_the_cpus", "test_golden", "test_tensor_parallel", "test_batch_invariance", "test_adapters",
                   "test_rounded_inputs", "test_inputs_rounded_before_products", "test_rounded_inputs_on_two_ranks")
REUSE_TESTS = ("test_reuse", "test_quantized", "test_adapters", "test_chunked_prefill", "test_tensor_parallel",
               "test_chunks_behind_a_batch_in_flight")
PIPELINE_TESTS = ("test_stages", "test_modes", "test_two_in_flight", "test_stages_of_two_ranks")
# What is looked at under each tool of compute-sanitizer: own kernels; memcheck also the host code around them.
SANITIZED = (("memcheck", "test_elementwise"), ("memcheck", "test_attention"), ("memcheck", "test_gpu_linear"),
             ("memcheck", "test_adapters"), ("racecheck", "test_adapters"), ("synccheck", "test_adapters"),
             ("memcheck", "test_unpack"), ("racecheck", "test_unpack"), ("synccheck", "test_unpack"),
             ("memcheck", "test_rounding"), ("racecheck", "test_rounding"), ("synccheck", "test_rounding"),
             ("racecheck", "test_elementwise"), ("racecheck", "test_attention test_mma_every_size_and_type"),
             ("racecheck", "test_attention test_simt"), ("synccheck", "test_elementwise"), ("synccheck", "test_attention"))
LIMIT_S = 1800


def devices(programs):
    """What the driver has, or an explanation why not."""
    found = json.loads(subprocess.run([programs / "devices"], capture_output=True, text=True, check=True).stdout)
    return found["devices"], found["error"]


def capability(device):
    """(9, 0) for "9.0"."""
    return tuple(map(int, device["capability"].split(".")))


def environment(found):
    """What the tests are told of the devices."""
    old = {} if all(capability(device)[0] == 9 for device in found) else {"ASSAY_NO_FP8": "1"}
    return {**os.environ, "ASSAY_DEVICES": str(len(found)), **old}


def checks(programs, sanitizer):
    """(name, command) of each."""
    for test in ("test_elementwise", "test_attention", "test_adapters", "test_unpack", "test_rounding", "test_gpu_linear"):
        yield test, [programs / test]
    for program, tests in (("test_gpu_model", MODEL_TESTS), ("test_gpu_lora", LORA_TESTS),
                           ("test_gpu_quantized", QUANTIZED_TESTS), ("test_gpu_reuse", REUSE_TESTS),
                           ("test_gpu_pipeline", PIPELINE_TESTS)):
        for test in tests:
            yield f"{program} {test}", [programs / program, test]
    for tool, what in SANITIZED if sanitizer else ():
        name, *arguments = what.split()
        yield f"{tool} {what}", [sanitizer, "--tool", tool, "--error-exitcode", "9", programs / name, *arguments]


def run(name, command, env):
    """True when it passed; what it said otherwise is shown. The kernels' own tests look at memory without asking the device, so there
    launches end before they return; with products and models they must not, or nothing would ever be in flight."""
    if any(test in name for test in ("test_elementwise", "test_attention", "test_adapters", "test_unpack", "test_rounding")):
        env = {**env, "CUDA_LAUNCH_BLOCKING": "1"}
    start = time.monotonic()
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, errors="replace")
        passed, words = done.returncode == 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        passed, words = False, f"not done after {LIMIT_S} s"
    print(f"{'ok    ' if passed else 'FAILED'} {name} ({time.monotonic() - start:.0f} s)", flush=True)
    if not passed:
        print("       " + "\n       ".join(words.splitlines()[-30:]), flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of the programs")
    parser.add_argument("--only", default="", help="checks whose name has this word")
    parser.add_argument("--no-sanitizer", action="store_true", help="leave compute-sanitizer out")
    args = parser.parse_args()
    found, error = devices(args.bin)
    if not found:
        print(f"gpu-check: nothing was checked, there is no device: {error}", file=sys.stderr)
        return 69
    for device in found:
        print(f"GPU {device['index']}: {device['name']}, compute capability {device['capability']}")
    sanitizer = None if args.no_sanitizer else shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin")
    if not sanitizer:
        print("left out: compute-sanitizer, which was " + ("not asked for" if args.no_sanitizer else "not found"))
    if len(found) == 1:
        print("left out: tensor parallelism, for which one device is too few")
    results = [run(name, command, environment(found)) for name, command in checks(args.bin, sanitizer) if args.only in name]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
