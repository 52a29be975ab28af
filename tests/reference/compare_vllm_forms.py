"""compare_vllm.py for what is not a plain checkpoint: adapters, and the quantized forms of make_quantized.py. Lines of JSON, for the page.

    compare_vllm_forms.py build/cpu/bin/assay >> FILE             all of them
    compare_vllm_forms.py build/cpu/bin/assay awq-int4 .. >> FILE only these

The reference of an adapter is its base with the adapter merged by PEFT, in float32; that of a quantized checkpoint are the values that
its stored numbers mean, in float32, and with its activations rounded compressed-tensors' own forward over these. What vLLM does not
take in float32 it is given in bfloat16, too.
"""
import argparse
import json
import pathlib
import tempfile
import zlib

import compare_vllm as base  # first: it sets vLLM's environment
import numpy
import peft
import safetensors.torch
import torch

import checkpoint
import make_models
import make_quantized
import oracle
import specs

LENGTHS = [1, 7, 16, 33, 64, 65, 150]
RANK = 16
LAYER = list(make_quantized.MATRICES)
ALL = dict(r=RANK, lora_alpha=RANK, target_modules=LAYER)
SEVERAL = {"one": ALL, "two": dict(ALL, lora_alpha=2 * RANK), "three": dict(ALL, use_rslora=True),
           "four": dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"])}
# name: (base, adapters)
ADAPTERS = {f"{name} + 4 adapters": (name, SEVERAL) for name in ("seqcls", "qwen3", "llama", "mistral")}
ADAPTERS.update({
    "seqcls + one with a head of its own": ("seqcls", {"head": dict(ALL, task_type="SEQ_CLS", modules_to_save=["score"])}),
    "reward + 4 adapters": ("reward", SEVERAL),
    "quantized/pack-int4-group + 4 adapters": ("quantized/pack-int4-group", SEVERAL),
    "quantized/awq-int4 + 4 adapters": ("quantized/awq-int4", SEVERAL),
})


# ---- adapters ----

def tensors_of(directory, name):
    """Writes the base; its config and float32 tensors."""
    if name.startswith("quantized/"):
        config, _, wide, _ = write_quantized(directory, name.removeprefix("quantized/"))
        return config, wide
    changes, dtype, _, _ = {**specs.SPECS, **specs.SAVED}[name]
    config = base.widened(checkpoint.config_of(changes))
    tensors = checkpoint.random_tensors(config, zlib.crc32(name.encode()), dtype)
    checkpoint.write(directory, name, config, tensors)
    return config, {key: tensor.float() for key, tensor in tensors.items()}


def bare_model(config, tensors):
    """(model for PEFT, head): whole, or the trunk alone where transformers has no class."""
    if not checkpoint.has_no_class(config):
        whole = oracle.whole_model(config, tensors)
        return whole, lambda model, hidden: model.score(hidden)
    model, head = oracle.trunk_and_head(config, tensors)
    return torch.nn.ModuleDict({"model": model}), lambda _, hidden: head(hidden)


def make_adapter(directory, config, tensors, settings, seed):
    """Saves it; the base with it merged, from the file."""
    torch.manual_seed(seed)
    wrapped = peft.get_peft_model(bare_model(config, tensors)[0], peft.LoraConfig(init_lora_weights=False, **settings))
    for key, value in wrapped.named_parameters():
        if "lora_" in key or "modules_to_save" in key:
            value.data = torch.randn(value.shape) * (0.05 if "lora_" in key else 0.3)
    wrapped.save_pretrained(directory)
    return peft.PeftModel.from_pretrained(bare_model(config, tensors)[0], directory).float().merge_and_unload().eval()


@torch.no_grad()
def last_values(model, head, ids):
    trunk = model["model"] if isinstance(model, torch.nn.ModuleDict) else model.model
    return head(model, trunk(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]).flatten().tolist()


def write_adapters(work, name):
    """(config, rows with values): those of each adapter and of the base, one after the other."""
    of, settings = ADAPTERS[name]
    config, tensors = tensors_of(work / "model", of)
    plain, head = bare_model(config, tensors)
    models = {None: plain.eval()}
    for k, (adapter, how) in enumerate(settings.items()):
        models[adapter] = make_adapter(work / adapter, config, tensors, how, k)
    rng, rows = numpy.random.default_rng(zlib.crc32(name.encode())), []
    for n in LENGTHS:
        for adapter, model in models.items():
            ids = rng.integers(0, config["vocab_size"], n).tolist()
            rows.append({"ids": ids, "adapter": adapter, "pool": {"type": "LAST", "activation": "none"},
                         "values": last_values(model, head, ids)})
    moved = {adapter: abs(last_values(model, head, rows[-1]["ids"])[0] - last_values(plain, head, rows[-1]["ids"])[0])
             for adapter, model in models.items() if adapter}
    assert min(moved.values()) > 1e-2, moved
    return config, rows


def largest_of(values, rows, who):
    """Over the rows with an adapter, or over those without among them."""
    mine = [k for k, row in enumerate(rows) if bool(row["adapter"]) == (who == "adapters")]
    return base.largest([values[k] for k in mine], [rows[k] for k in mine])


def compare_adapters(program, name):
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        made = base.in_child(write_adapters, work, name)
        assert not isinstance(made, str), made
        config, rows = made
        loras = {adapter: work / adapter for adapter in ADAPTERS[name][1]}
        options = [word for adapter, path in loras.items() for word in ("--lora", f"{adapter}={path}")]
        found = {"kind": "adapters", "model": name, "architecture": config["architectures"][0], "rows": len(rows),
                 "assay": base.largest(base.assay_values(program, work / "model", config, rows, options), rows), "vllm": {}}
        for dtype in ("float32", "bfloat16"):
            values, _ = base.vllm_values(work / "model", config, rows, dtype=dtype, enable_lora=True, max_loras=len(loras), max_lora_rank=RANK,
                                         adapters=loras)
            if not isinstance(values, str):
                found["vllm"][dtype] = {who: largest_of(values, rows, who) for who in ("adapters", "base")}
                break
            found["vllm"][dtype] = values
    print(json.dumps(found), flush=True)


# ---- quantized checkpoints ----

# make_quantized.py has compared the values with compressed-tensors' own: with a newer one than vLLM's, which has no block that is cut.
make_quantized.compare_compressed = lambda *_: None

def write_quantized(directory, name):
    """(config, stored tensors, float32 tensors, names of the quantized matrices), as make_quantized.py makes them, but wider."""
    changes, quantization, settings, kept, *_ = make_quantized.SPECS[name]
    seed = zlib.crc32(name.encode())
    config, rng = base.widened(checkpoint.config_of(changes)), numpy.random.default_rng(seed + 1)
    stored, wide, hashes = make_quantized.quantize(quantization, settings, kept, checkpoint.random_tensors(config, seed, "BF16"), rng)
    checkpoint.empty(directory)
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}, indent=1) + "\n")
    safetensors.torch.save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    return config, stored, wide, hashes


def rounded_scores(name, config, stored, wide, hashes, rows):
    """With each quantized product's inputs rounded as the file says; None where the reference has no such thing."""
    quantization = make_quantized.SPECS[name][1]
    if "config_groups" not in quantization or not quantization["config_groups"]["group_0"]["input_activations"]:
        return None
    model, head = oracle.trunk_and_head(config, wide)
    make_quantized.round_inputs(model, quantization["config_groups"]["group_0"], stored, hashes)
    return [oracle.pool(config, oracle.logits(model, head, row["ids"]), row["ids"], row.get("pool")) for row in rows]


def write_case(directory, name):
    config, stored, wide, hashes = write_quantized(directory, name)
    lengths, pools = make_quantized.SPECS[name][4:6]
    rng = numpy.random.default_rng(zlib.crc32(name.encode()) + 3)
    rows = [make_models.make_row(config, n, pools[k % len(pools)], rng) for k, n in enumerate(lengths)]
    rounded = rounded_scores(name, config, stored, wide, hashes, rows)
    for k, values in enumerate(oracle.score(config, wide, rows)):
        rows[k]["values"] = values
        if rounded:
            rows[k]["rounded"] = rounded[k]
    return config, rows


def rounds_inputs(name):
    quantization = make_quantized.SPECS[name][1]
    groups = quantization.get("config_groups")
    return groups["group_0"]["input_activations"] is not None if groups else "activation_scheme" in quantization


def compare_quantized(program, name):
    with tempfile.TemporaryDirectory() as work:
        directory = pathlib.Path(work) / name
        made = base.in_child(write_case, directory, name)
        assert not isinstance(made, str), made
        config, rows = made
        readings = {"values": ["--activations", "weights-only"] if rounds_inputs(name) else []}
        if "rounded" in rows[0]:
            readings["rounded"] = ["--activations", "as-stored"]
        found = {"kind": "quantized", "model": name, "architecture": config["architectures"][0], "rows": len(rows), "vllm": {},
                 "assay": {key: {"float32": base.largest(base.assay_values(program, directory, config, rows, options), rows, key),
                                 "bfloat16": base.largest(base.assay_values(program, directory, config, rows, [*options, "--dtype", "bf16"]),
                                                          rows, key)} for key, options in readings.items()}}
        for dtype in ("float32", "bfloat16"):
            values, _ = base.vllm_values(directory, config, rows, dtype=dtype)
            found["vllm"][dtype] = values if isinstance(values, str) else {key: base.largest(values, rows, key) for key in readings}
    print(json.dumps(found), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="build/cpu/bin/assay")
    parser.add_argument("names", nargs="*", help="of ADAPTERS here, or of make_quantized.py's SPECS (default: all)")
    args = parser.parse_args()
    for name in args.names or [*ADAPTERS, *make_quantized.SPECS]:
        (compare_adapters if name in ADAPTERS else compare_quantized)(args.program, name)


if __name__ == "__main__":
    main()
