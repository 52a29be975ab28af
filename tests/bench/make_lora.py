"""Writes an adapter of all linear modules, with random bfloat16 numbers, for bench_forward.

    python tests/bench/make_lora.py MODEL DIR [RANK]
"""
import json
import pathlib
import random
import struct
import sys


def main(model, directory, rank=16):
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    hidden, mlp, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    kv = config.get("num_key_value_heads", heads) * dim
    shapes = {"self_attn.q_proj": (heads * dim, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
              "self_attn.o_proj": (hidden, heads * dim), "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden),
              "mlp.down_proj": (hidden, mlp)}
    rng, header, data, at = random.Random(str(directory)), {}, [], 0
    for layer in range(config["num_hidden_layers"]):
        for name, (out, into) in shapes.items():
            for part, shape in (("A", (rank, into)), ("B", (out, rank))):
                n = shape[0] * shape[1]
                # Magnitudes around 0.01, either sign: the upper byte is 0x3c or 0xbc.
                numbers = bytearray(rng.randbytes(2 * n))
                numbers[1::2] = bytes(0x3c | b & 0x80 for b in numbers[1::2])
                header[f"base_model.model.model.layers.{layer}.{name}.lora_{part}.weight"] = {
                    "dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * n]}
                data.append(bytes(numbers))
                at += 2 * n
    text = json.dumps(header).encode()
    to = pathlib.Path(directory)
    to.mkdir(parents=True, exist_ok=True)
    (to / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    (to / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": "all-linear", "bias": "none"}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
