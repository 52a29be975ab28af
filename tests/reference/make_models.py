"""Writes the small checkpoints under tests/models and the oracle's values under tests/vectors. Seeded: the same files each time.

    python tests/reference/make_models.py            all of them
    python tests/reference/make_models.py reward     only these
"""
import argparse
import copy
import json
import pathlib
import struct
import zlib

import numpy
import torch

import oracle
import specs

TESTS = pathlib.Path(__file__).resolve().parents[1]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def shapes(config):
    """Name to shape of every tensor of this config, names with "model."."""
    hidden, mlp, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv, dim = config["num_key_value_heads"], config.get("head_dim") or hidden // heads
    out = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for k in range(config["num_hidden_layers"]):
        layer = f"model.layers.{k}."
        out[layer + "input_layernorm.weight"] = out[layer + "post_attention_layernorm.weight"] = (hidden,)
        for name, width in (("q", heads * dim), ("k", kv * dim), ("v", kv * dim)):
            out[layer + f"self_attn.{name}_proj.weight"] = (width, hidden)
            if config["model_type"] == "qwen2":
                out[layer + f"self_attn.{name}_proj.bias"] = (width,)
        if config["model_type"] == "qwen3":
            out[layer + "self_attn.q_norm.weight"] = out[layer + "self_attn.k_norm.weight"] = (dim,)
        out[layer + "self_attn.o_proj.weight"] = (hidden, heads * dim)
        out[layer + "mlp.gate_proj.weight"] = out[layer + "mlp.up_proj.weight"] = (mlp, hidden)
        out[layer + "mlp.down_proj.weight"] = (hidden, mlp)
    return {**out, **head_shapes(config)}


def head_shapes(config):
    """Tensors of the score head."""
    hidden, architecture = config["hidden_size"], config["architectures"][0]
    labels = {"Qwen2ForRewardModel": 1, "Qwen2ForProcessRewardModel": 2}.get(architecture)
    if labels:
        return {"score.0.weight": (hidden, hidden), "score.0.bias": (hidden,), "score.2.weight": (labels, hidden),
                "score.2.bias": (labels,)}
    head = {"score.weight": (config["num_labels"], hidden)}
    if architecture.endswith("TokenClassification"):
        head["score.bias"] = (config["num_labels"],)
    return head


def random_tensors(config, seed, dtype):
    """Weights for scores of order one that feel every part: norms far from 1, biases that matter, attention that is not flat."""
    rng = numpy.random.default_rng(seed)
    tensors = {}
    for name, shape in sorted(shapes(config).items()):
        values = rng.standard_normal(shape).astype(numpy.float32)
        if "norm" in name:
            values = 1 + 0.3 * values
        elif name.endswith("bias"):
            values *= 0.5
        elif "q_proj" in name or "k_proj" in name:
            values *= 1.6 / shape[1] ** 0.5
        elif "embed" not in name:
            values *= 1.0 / shape[1] ** 0.5
        tensors[name] = torch.from_numpy(values).to(DTYPES[dtype])
    return tensors


def tensor_bytes(tensor):
    """Its little-endian bytes."""
    wide = tensor.contiguous()
    return (wide.view(torch.int16) if wide.dtype != torch.float32 else wide).numpy().tobytes()


def write_safetensors(path, tensors):
    """One file: u64 header length, JSON header, data."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        body = tensor_bytes(tensor)
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_shards(directory, tensors, n):
    """n files and the index."""
    names = list(tensors)
    weight_map = {}
    for k in range(n):
        file = f"model-{k + 1:05d}-of-{n:05d}.safetensors"
        part = names[k * len(names) // n:(k + 1) * len(names) // n]
        write_safetensors(directory / file, {name: tensors[name] for name in part})
        weight_map.update({name: file for name in part})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}, indent=1))


def write_model(directory, name, config, tensors):
    """The checkpoint's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    stored = {k: v for k, v in config.items() if v is not None}
    (directory / "config.json").write_text(json.dumps(stored, indent=1) + "\n")
    if config["architectures"][0] == "Qwen2ForProcessRewardModel":
        token = {"id": oracle.DEFAULT_STEP_TOKEN, "content": "<extra_0>", "special": True}
        (directory / "tokenizer.json").write_text(json.dumps({"added_tokens": [token]}) + "\n")
    if name == "no-prefix":
        tensors = {k.removeprefix("model."): v for k, v in tensors.items()}
    if name == "ignored-tensors":
        tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"],
                   "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    if name == "sharded":
        write_shards(directory, tensors, 3)
    else:
        write_safetensors(directory / "model.safetensors", tensors)


def tp_sizes(config):
    """Tensor-parallel sizes that this shape allows."""
    heads, kv, mlp = config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"]
    mlp_head = config["architectures"][0] in ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel")
    return [n for n in (1, 2, 4) if heads % n == 0 and mlp % n == 0 and (kv % n == 0 or n % kv == 0)
            and (not mlp_head or config["hidden_size"] % n == 0)]


def make_rows(config, lengths, pools, seed):
    """Rows with their pooling, without values yet."""
    rng = numpy.random.default_rng(seed + 1)
    rows = []
    for k, n in enumerate(lengths):
        ids = rng.integers(10, config["vocab_size"], n).tolist()
        pool = copy.deepcopy(pools[k % len(pools)])
        if pool and pool["type"] == "ALL" and n > 200:
            pool = {"type": "LAST"}
        how = {**oracle.default_pool(config), **(pool or {})}
        if how["type"] == "STEP":
            for at in sorted({0, n // 3, n - 1}):
                ids[at] = how["step_token"]
        if pool and pool.get("positions"):
            pool["positions"] = sorted({n - 1, 0, n // 2}, reverse=True)
        rows.append({"ids": ids, **({"pool": pool} if pool else {})})
    return rows


def values_of(config, tensors, rows, dtype=torch.float32):
    """The oracle's values of each row, computed in this dtype."""
    model, head = oracle.trunk_and_head(config, {k: v.float() for k, v in tensors.items()})
    if dtype != torch.float32:
        model = model.to(dtype)
    found = []
    for row in rows:
        scores = oracle.logits(model, (lambda h: head(h.float())), row["ids"])
        found.append(oracle.pool(config, scores, row["ids"], row.get("pool")))
    return found


def sensitivity(config, tensors, rows, values):
    """Largest change of a value when rope_theta, the norm's eps or the window are other than they are: tests must feel it."""
    other = copy.deepcopy(config)
    for holder in (other, other.get("rope_parameters") or {}):
        if holder.get("rope_theta"):
            holder["rope_theta"] *= 3
    changed = values_of(other, tensors, rows)
    return max(abs(a - b) for x, y in zip(values, changed) for a, b in zip(x, y))


def make(name, changes, dtype, lengths, pools):
    """One checkpoint and its vectors."""
    seed = zlib.crc32(name.encode())
    config = {**specs.BASE, **changes}
    tensors = random_tensors(config, seed, dtype)
    rows = make_rows(config, lengths, pools, seed)
    values = values_of(config, tensors, rows)
    felt = sensitivity(config, tensors, rows, values)
    assert felt > 1e-3, (name, felt)
    native = values_of(config, tensors, rows, DTYPES[dtype]) if dtype != "F32" else None
    for k, row in enumerate(rows):
        row["values"] = [float(f"{v:.9g}") for v in values[k]]
        if native:
            row["values_native"] = [float(f"{v:.6g}") for v in native[k]]
    write_model(TESTS / "models" / name, name, config, tensors)
    how = f"tests/reference/make_models.py, transformers in float32, weights stored as {dtype}, seed {seed}"
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = json.dumps({"model": name, "how": how, "tp": tp_sizes(config)})[:-1]
    (TESTS / "vectors").mkdir(exist_ok=True)
    (TESTS / "vectors" / f"{name}.json").write_text(f'{head}, "rows": [\n{lines}\n]}}\n')
    print(f"{name:24s} {len(rows):3d} rows  feels rope_theta by {felt:.3g}")


def make_demo():
    """tests/models/demo and the rows that `make demo` scores."""
    config = {**specs.BASE, **specs.DEMO}
    write_model(TESTS / "models/demo", "demo", config, random_tensors(config, 7, "BF16"))
    rng = numpy.random.default_rng(8)
    with open(TESTS / "models/demo.jsonl", "w") as f:
        for k in range(64):
            ids = rng.integers(0, config["vocab_size"], int(rng.integers(4, 301))).tolist()
            f.write(json.dumps({"id": f"row-{k}", "input_ids": ids}, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="checkpoints to make (default: all)")
    names = parser.parse_args().names or [*specs.SPECS, "demo"]
    torch.manual_seed(0)
    for name in names:
        if name == "demo":
            make_demo()
        else:
            make(name, *specs.SPECS[name])


if __name__ == "__main__":
    main()
