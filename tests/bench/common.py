"""What the benchmarks share: where things are, the two kinds of result (Row and Chart), a program's JSON lines, checkpoints to measure on."""
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import typing

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE.parent / "text")]
import harness  # noqa: E402

TOOLS = harness.BIN.parent / "tests/bench"
SCRATCH = ROOT / "build/bench"
CORES = os.cpu_count()
ROWS, TOKENS, BATCH_TOKENS = 16, 512, 2048


class Row(typing.NamedTuple):
    """A line of the table: what was measured, ours and the ceiling or peer in words, their ratio (larger is better), and what is aimed at."""
    id: str
    what: str
    ours: str
    other: str
    ratio: typing.Optional[float]  # None: not measured, `ours` says what is missing
    target: typing.Optional[float] = None


@dataclasses.dataclass
class Chart:
    """A table of its own, with a plot: `columns` are its heads, `rows` its cells as they are printed; `series` maps a legend's text to (x, y)
    pairs. `name` is the plot's file."""
    name: str
    title: str
    note: str
    columns: list
    rows: list
    series: dict
    x: str
    y: str
    log_x: bool = True
    log_y: bool = False
    y_from: typing.Optional[float] = 0.0  # where the y axis begins at the latest; None: where the points do


NUMBERS = random.Random(11)


def fresh_row(tokens):
    """Ids like no row before: rows that are the same, or begin alike, may cost less than rows do."""
    return {"ids": harness.ids_bytes([NUMBERS.randrange(151936) for _ in range(tokens)])}


def say(text):
    """Progress and detail, on standard error."""
    print(f"      {text}", file=sys.stderr, flush=True)


def lines(*command, **options):
    """A program's JSON lines."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def checkpoint(layers=None, shape="0.5b"):
    """The directory of a random checkpoint of the 0.5B (or another) model's shape, perhaps with fewer layers; made at the first use."""
    directory = SCRATCH / (f"qwen2.5-{shape}-shape" + (f"-{layers}-layers" if layers else ""))
    if not (directory / "model.safetensors").exists():
        say(f"making a checkpoint in {directory.relative_to(ROOT)}")
        options = ["--shape", shape] + (["--layers", layers] if layers else [])
        subprocess.run([sys.executable, HERE / "make_big.py", directory, *map(str, options)], check=True)
    return directory


def adapters(model, n, rank):
    """Directories of n random adapters of the checkpoint; made at the first use."""
    made = [SCRATCH / f"adapters/{model.name}/a{k}" for k in range(n)]
    for directory in made:
        if not (directory / "adapter_config.json").exists():
            subprocess.run([sys.executable, HERE / "make_lora.py", model, directory, str(rank)], check=True)
    return made
