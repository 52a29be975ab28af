"""Writes a checkpoint in the shape of Qwen2.5-0.5B (or 1.5B, 7B, or a tiny one) with a reward head: bfloat16, random. Plain Python.

    make_big.py DIR [--shape 0.5b] [--layers N] [--holes | --label] [--form FORM]

Each matrix repeats a block of random values: for timing, what the numbers are does not matter as long as they are ordinary.
With --holes matrices take no room on the disk and are zeros: for programs that want their shapes alone. With --label the head is a
sequence classification's, one matrix of one row. FORM (big_forms.py) is how the layers' matrices are quantized.
"""
import argparse
import json
import pathlib
import random
import struct

import big_forms

CONFIG = {
    "architectures": ["Qwen2ForRewardModel"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
    "hidden_act": "silu", "use_sliding_window": False,
}

LABEL = {"architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "LABEL_0"}}

SHAPES = {
    "tiny": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 4096},
    "0.5b": {},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}


def shapes(c):
    """Name to shape of every tensor."""
    h, mlp, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * (c["hidden_size"] // c["num_attention_heads"])
    out = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}
    if c["architectures"] == LABEL["architectures"]:
        out |= {"score.weight": (1, h)}
    else:
        out |= {"score.0.weight": (h, h), "score.0.bias": (h,), "score.2.weight": (1, h), "score.2.bias": (1,)}
    for k in range(c["num_hidden_layers"]):
        layer = f"model.layers.{k}."
        for name, shape in (("input_layernorm.weight", (h,)), ("post_attention_layernorm.weight", (h,)),
                            ("self_attn.q_proj.weight", (h, h)), ("self_attn.q_proj.bias", (h,)),
                            ("self_attn.k_proj.weight", (kv, h)), ("self_attn.k_proj.bias", (kv,)),
                            ("self_attn.v_proj.weight", (kv, h)), ("self_attn.v_proj.bias", (kv,)),
                            ("self_attn.o_proj.weight", (h, h)), ("mlp.gate_proj.weight", (mlp, h)),
                            ("mlp.up_proj.weight", (mlp, h)), ("mlp.down_proj.weight", (h, mlp))):
            out[layer + name] = shape
    return out


def parts(config, rng):
    """Name to (type, shape, bytes to repeat) of every tensor of the file."""
    block, one = big_forms.bfloat16([rng.gauss(0, 0.02) for _ in range(1 << 17)]), big_forms.bfloat16([1.0])
    form = big_forms.FORMS.get(config.get("_form"))
    for name, shape in shapes(config).items():
        if form and name.endswith("_proj.weight"):
            for suffix, part in form.parts(*shape, rng).items():
                yield f"{name.removesuffix('weight')}{suffix}", part
        else:
            yield name, ("BF16", shape, one if "norm" in name else block)


def write(directory, config, holes=False):
    directory.mkdir(parents=True, exist_ok=True)
    header, found, at = {}, dict(parts(config, random.Random(1))), 0
    for name, (kind, shape, _) in found.items():
        n = big_forms.BYTES[kind] * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            n, block = entry["data_offsets"][1] - entry["data_offsets"][0], found[name][2]
            if holes and len(entry["shape"]) == 2:
                f.seek(n, 1)
                continue
            f.write((block * (n // len(block) + 1))[:n])
        f.truncate()
    form = config.pop("_form", None)
    settings = {"quantization_config": big_forms.FORMS[form].config} if form else {}
    (directory / "config.json").write_text(json.dumps({**config, **settings}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path, help="where the checkpoint goes; made where missing")
    parser.add_argument("--shape", choices=SHAPES, default="0.5b", help="whose sizes (default 0.5b)")
    parser.add_argument("--layers", type=int, help="fewer layers for a quick look (default the shape's)")
    parser.add_argument("--holes", action="store_true", help="matrices are holes in the file, zeros")
    parser.add_argument("--label", action="store_true", help="the head is one matrix of one row")
    parser.add_argument("--form", choices=big_forms.FORMS, help="how the layers' matrices are quantized (default not at all)")
    args = parser.parse_args()
    changes = {"num_hidden_layers": args.layers} if args.layers else {}
    changes |= (LABEL if args.label else {}) | ({"_form": args.form} if args.form else {})
    write(args.directory, {**CONFIG, **SHAPES[args.shape], **changes}, args.holes)
