"""Writes a checkpoint in the shape of Qwen2.5-0.5B (or 1.5B, 7B) with a reward head: bfloat16, random. Plain Python.

    make_big.py DIR [--shape 0.5b] [--layers N] [--holes]

Each matrix repeats a block of random values: for timing, what the numbers are does not matter as long as they are ordinary.
With --holes matrices take no room on the disk and are zeros: for programs that want their shapes alone.
"""
import argparse
import json
import pathlib
import random
import struct

CONFIG = {
    "architectures": ["Qwen2ForRewardModel"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
    "hidden_act": "silu", "use_sliding_window": False,
}

SHAPES = {
    "0.5b": {},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}


def shapes(c):
    """Name to shape of every tensor."""
    h, mlp, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * (c["hidden_size"] // c["num_attention_heads"])
    out = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,), "score.0.weight": (h, h),
           "score.0.bias": (h,), "score.2.weight": (1, h), "score.2.bias": (1,)}
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


def bfloat16(values):
    """Their upper halves as float32, little-endian."""
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def write(directory, config, holes=False):
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    block = bfloat16(rng.gauss(0, 0.02) for _ in range(1 << 17))
    header, at = {}, 0
    for name, shape in shapes(config).items():
        n = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            n = entry["data_offsets"][1] - entry["data_offsets"][0]
            if holes and len(entry["shape"]) == 2:
                f.seek(n, 1)
                continue
            source = bfloat16([1.0]) * (n // 2) if "norm" in name else block * (n // len(block) + 1)
            f.write(source[:n])
        f.truncate()
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path, help="where the checkpoint goes; made where missing")
    parser.add_argument("--shape", choices=SHAPES, default="0.5b", help="whose sizes (default 0.5b)")
    parser.add_argument("--layers", type=int, help="fewer layers for a quick look (default the shape's)")
    parser.add_argument("--holes", action="store_true", help="matrices are holes in the file, zeros")
    args = parser.parse_args()
    layers = {"num_hidden_layers": args.layers} if args.layers else {}
    write(args.directory, {**CONFIG, **SHAPES[args.shape], **layers}, args.holes)
