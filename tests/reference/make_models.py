"""Writes the small checkpoints under tests/models and the oracle's values under tests/vectors. Seeded: the same each time.

    python tests/reference/make_models.py               all of them, then check_numpy.py over what was written
    python tests/reference/make_models.py reward demo   only these
    python tests/reference/make_models.py --into /tmp/x somewhere else
"""
import argparse
import copy
import json
import pathlib
import zlib

import numpy
import safetensors.torch
import torch
import transformers

import check_numpy
import checkpoint
import oracle
import sensitivity
import specs

TESTS = pathlib.Path(__file__).resolve().parents[1]


def tp_sizes(config):
    """Tensor-parallel sizes that this shape allows."""
    heads, kv, mlp = config["num_attention_heads"], checkpoint.kv_heads(config), config["intermediate_size"]
    return [n for n in (1, 2, 4) if heads % n == 0 and mlp % n == 0 and (kv % n == 0 or n % kv == 0)
            and (not checkpoint.has_mlp_head(config) or config["hidden_size"] % n == 0)]


def make_row(config, n, pool, rng):
    """A row of n tokens with its pooling, without values yet. Where steps are pooled, several tokens are step tokens."""
    ids = rng.integers(0, config["vocab_size"], n).tolist()
    how = {**oracle.default_pool(config), **(pool or {})}
    if how["type"] == "STEP":
        for at in {0, n // 3, n // 3 + 1, n - 1}:
            ids[min(at, n - 1)] = how["step_token"]
    if how["type"] == "POSITIONS":
        pool = dict(pool, positions=[n - 1, 0, n // 2, n - 1])
    return {"ids": ids, **({"pool": copy.deepcopy(pool)} if pool else {})}


def vector_text(name, config, how, rows):
    """The vector file: one row a line. `head` is the option with which it is scored."""
    option = {"head": config[checkpoint.HEAD]} if config.get(checkpoint.HEAD, "value") != "value" else {}
    head = json.dumps({"model": name, "how": how, **option, "tp": tp_sizes(config)})[:-1]
    return head + ', "rows": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]}\n"


def rounded(values, digits):
    return [float(f"{v:.{digits}g}") for v in values]


def save(directory, config, tensors, dtype):
    """The checkpoint as save_pretrained writes it, and LLaMA-Factory its value head beside it."""
    checkpoint.empty(directory)
    oracle.whole_model(config, tensors).to(dtype).save_pretrained(directory)
    if config.get(checkpoint.HEAD) == "value":
        beside = {k: v for k, v in tensors.items() if k.startswith("v_head.")}
        safetensors.torch.save_file(beside, directory / "value_head.safetensors", metadata={"format": "pt"})


def make(into, name):
    """One checkpoint and its vectors."""
    is_saved = name in specs.SAVED
    changes, dtype, lengths, pools = specs.SAVED[name] if is_saved else specs.SPECS[name]
    seed = zlib.crc32(name.encode())
    config = checkpoint.config_of(changes)
    tensors = checkpoint.random_tensors(config, seed, dtype)
    rng = numpy.random.default_rng(seed + 1)
    rows = [make_row(config, n, pools[k % len(pools)], rng) for k, n in enumerate(lengths)]
    what, change = sensitivity.least_felt(config, tensors, rows)
    assert change > sensitivity.LEAST, (name, what, change)
    native = oracle.score(config, tensors, rows, checkpoint.DTYPES[dtype]) if dtype != "F32" else None
    for k, values in enumerate(oracle.score(config, tensors, rows)):
        rows[k]["values"] = rounded(values, 9)
        if native:
            rows[k]["values_native"] = rounded(native[k], 6)
    if is_saved:
        save(into / "models" / name, config, tensors, checkpoint.DTYPES[dtype])
    else:
        checkpoint.write(into / "models" / name, name, config, tensors)
    how = (f"tests/reference/make_models.py, seed {seed}, {'save_pretrained, ' if is_saved else ''}weights stored as {dtype}; "
           f"transformers {transformers.__version__} in float32")
    (into / "vectors" / f"{name}.json").write_text(vector_text(name, config, how, rows))
    print(f"{name:24s} {len(rows):3d} rows; {what} is felt least, by {change:.2g}", flush=True)


def make_demo(into):
    """models/demo and the rows that `make demo` scores."""
    config = checkpoint.config_of(specs.DEMO)
    checkpoint.write(into / "models/demo", "demo", config, checkpoint.random_tensors(config, 7, "BF16"))
    rng = numpy.random.default_rng(8)
    with open(into / "models/demo.jsonl", "w") as f:
        for k in range(64):
            ids = rng.integers(0, config["vocab_size"], int(rng.integers(4, 301))).tolist()
            f.write(json.dumps({"id": f"row-{k}", "input_ids": ids}, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="checkpoints to make (default: all)")
    parser.add_argument("--into", type=pathlib.Path, default=TESTS, help="where models/ and vectors/ go (default: tests)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the same order of sums on every machine
    (args.into / "models").mkdir(parents=True, exist_ok=True)
    (args.into / "vectors").mkdir(parents=True, exist_ok=True)
    for name in args.names or [*specs.SPECS, *specs.SAVED, "demo"]:
        if name == "demo":
            make_demo(args.into)
        else:
            make(args.into, name)
    check_numpy.check_all(args.into)


if __name__ == "__main__":
    main()
