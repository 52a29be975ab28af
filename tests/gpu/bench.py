"""The benchmarks of a machine with a GPU, as a table of ratios: each to a ceiling or a peer measured in the same run.

    bench.py --bin DIR [--peer-python PYTHON] [--quick]

a1  the fastest cuBLASLt times of a 7B model's products / the forward's time
a3  the forward's TFLOP/s (executed work) / those of an 8192^3 bfloat16 product
a4  tokens/s / transformers in bfloat16 with SDPA on the same GPU, rows of equal and of mixed length (with PyTorch only)
a5  tokens/s with fp8 / with bfloat16 (compute capability 9.0)
d1  the device's idle share with two batches in flight, 7B and 0.5B
and every kernel against the device's own copy and matmul rates. Timeline: nsys profile --trace cuda,nvtx DIR/bench_forward ..

DIR has the programs that `make gpu-programs` builds. Matrices are noise of a checkpoint's shape; nothing is downloaded. --quick takes
small sizes, whose figures mean nothing, to see that all of it runs. Exit code 69 when there is no device.
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

from check import capability, devices

HERE = pathlib.Path(__file__).resolve().parent
MAKE_BIG = HERE.parent / "bench/make_big.py"
PEER = HERE.parent / "bench/peer_transformers.py"
EQUAL = ["1024"]
MIXED = ["64", "2048", "128", "512", "96", "1024", "256", "1536"]


def run_json(*command):
    """The lines of JSON that a program prints."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"gpu-bench: {' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Bench:
    def __init__(self, args, device, directory):
        self.args, self.device, self.directory = args, device, directory
        self.rows = []

    def model(self, shape):
        """A checkpoint of this shape without contents."""
        path = self.directory / shape
        if not path.exists():
            layers = ["--layers", "2"] if self.args.quick else []
            subprocess.run([sys.executable, str(MAKE_BIG), str(path), "--shape", shape, "--holes", *layers], check=True)
        return path

    def forward(self, shape, quant, lengths):
        tokens, batches = (64, 3) if self.args.quick else (8192, 30)
        if self.args.quick:
            lengths = ["16"]
        model = self.args.quick_model if self.args.quick else self.model(shape)
        return run_json(self.args.bin / "bench_forward", model, quant, tokens, batches, *lengths)[0]

    def add(self, name, what, ours, theirs, ratio):
        self.rows.append((name, what, ours, theirs, ratio))

    def kernels(self):
        """The roofline; returns the matmul rate."""
        sizes = [64, 64, 96, 4, 2, 64, 64] if self.args.quick else [8192, 3584, 18944, 28, 4, 128, 8192]
        found = run_json(self.args.bin / "bench_kernels", *sizes)
        rates = {row["name"]: row for row in found}
        copy, matmul = rates["copy"]["gb_s"], rates["matmul"]["tflop_s"]
        for row in found[2:]:
            if "gb_s" in row:
                self.add("kernel", row["name"], f"{row['gb_s']:.0f} GB/s", f"copy {copy:.0f} GB/s", row["gb_s"] / copy)
            else:
                self.add("kernel", row["name"], f"{row['tflop_s']:.0f} TFLOP/s", f"matmul {matmul:.0f} TFLOP/s",
                         row["tflop_s"] / matmul)
        return matmul

    def models(self, matmul):
        large, small = self.forward("7b", "none", EQUAL), self.forward("0.5b", "none", EQUAL)
        self.add("a1", "products alone / forward, 7B, 8192 tokens", f"{large['ms']:.1f} ms", f"{large['best_products_ms']:.1f} ms",
                 large["best_products_ms"] / large["ms"])
        self.add("a3", "forward / matmul, 7B", f"{large['tflop_s']:.0f} TFLOP/s", f"{matmul:.0f} TFLOP/s", large["tflop_s"] / matmul)
        if capability(self.device)[0] == 9:
            eighth = self.forward("7b", "fp8", EQUAL)
            self.add("a5", "fp8 / bfloat16, 7B", f"{eighth['tokens_per_s']:.0f} tokens/s", f"{large['tokens_per_s']:.0f} tokens/s",
                     eighth["tokens_per_s"] / large["tokens_per_s"])
        self.add("d1", "idle share, 7B", f"{large['ms']:.1f} ms a batch", "", large["idle_share"])
        self.add("d1", "idle share, 0.5B", f"{small['ms']:.1f} ms a batch", "", small["idle_share"])
        return large

    def peer(self, large):
        """a4, where a Python with PyTorch for the device is at hand."""
        has = subprocess.run([self.args.peer_python, "-c", "import torch, transformers; assert torch.cuda.is_available()"],
                             capture_output=True)
        if has.returncode:
            print(f"left out: a4, since {self.args.peer_python} has no transformers with PyTorch for this device", file=sys.stderr)
            return
        mixed = self.forward("7b", "none", MIXED)
        for name, ours, lengths in (("equal", large, EQUAL), ("mixed", mixed, MIXED)):
            theirs = run_json(self.args.peer_python, PEER, "--model", self.model("7b"), "--cuda", "--rows", 64, "--batch", 8,
                              "--lengths", ",".join(lengths))[0]
            self.add("a4", f"tokens/s / transformers {theirs['transformers']} bfloat16 SDPA, 7B, {name} lengths",
                     f"{ours['tokens_per_s']:.0f} tokens/s", f"{theirs['tokens_per_s']:.0f} tokens/s",
                     ours["tokens_per_s"] / theirs["tokens_per_s"])

    def print_table(self):
        print(f"{datetime.date.today()}, {self.device['name']}{': tiny sizes, the figures mean nothing' * self.args.quick}\n")
        print("| id | what | Assay | ceiling or peer | ratio |\n|---|---|---|---|---|")
        for name, what, ours, theirs, ratio in self.rows:
            print(f"| {name} | {what} | {ours} | {theirs} | {ratio:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of the programs")
    parser.add_argument("--peer-python", default="python3", help="a Python with PyTorch and transformers, for a4")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that it runs")
    args = parser.parse_args()
    args.quick_model = HERE.parent / "models/bf16"
    found, error = devices(args.bin)
    if not found:
        print(f"gpu-bench: nothing was measured, there is no device: {error}", file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(args, found[0], pathlib.Path(directory))
        large = bench.models(bench.kernels())
        if not args.quick:
            bench.peer(large)
        bench.print_table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
