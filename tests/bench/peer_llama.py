"""The peer of b3: tokens/s of llama.cpp's llama-bench on the CPU, prompts alone (pp512), on a model of the same shape. Plain Python.

    peer_llama.py --bench PATH --model DIR [--type f16|bf16|q8_0] [--tokens N] [--repeat N] [--threads N]

Prints one line of JSON. Only the shape is taken from DIR's config.json (Qwen2): a GGUF file with a repeated block of random values is written
beside it at the first use, for timing what the weights are does not matter. It has no vocabulary. llama-bench gives each prompt a batch of
its own, computes the logits of its last token only, and does not count its warm-up.
"""
import argparse
import json
import pathlib
import random
import struct
import subprocess

UINT32, FLOAT32, STRING = 4, 6, 8
TYPES = {"f32": (0, 1, 4), "f16": (1, 1, 2), "bf16": (30, 1, 2), "q8_0": (8, 32, 34)}  # number in GGUF, elements and bytes of a block
FILE_TYPES = {"f16": 1, "bf16": 32, "q8_0": 7}
ALIGNMENT = 32


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def facts(c, kind):
    """What GGUF says of the model: (key, type, value)."""
    return [("general.architecture", STRING, "qwen2"), ("general.file_type", UINT32, FILE_TYPES[kind]),
            ("qwen2.block_count", UINT32, c["num_hidden_layers"]), ("qwen2.context_length", UINT32, c["max_position_embeddings"]),
            ("qwen2.embedding_length", UINT32, c["hidden_size"]), ("qwen2.feed_forward_length", UINT32, c["intermediate_size"]),
            ("qwen2.attention.head_count", UINT32, c["num_attention_heads"]),
            ("qwen2.attention.head_count_kv", UINT32, c["num_key_value_heads"]), ("qwen2.rope.freq_base", FLOAT32, c["rope_theta"]),
            ("qwen2.attention.layer_norm_rms_epsilon", FLOAT32, c["rms_norm_eps"]), ("qwen2.vocab_size", UINT32, c["vocab_size"]),
            ("tokenizer.ggml.model", STRING, "no_vocab")]


def shapes(c):
    """Name to (columns, rows) of a matrix, (elements,) of a vector."""
    h, mlp = c["hidden_size"], c["intermediate_size"]
    kv = c["num_key_value_heads"] * (h // c["num_attention_heads"])
    out = {"token_embd.weight": (h, c["vocab_size"]), "output_norm.weight": (h,)}
    for k in range(c["num_hidden_layers"]):
        for name, shape in (("attn_norm.weight", (h,)), ("attn_q.weight", (h, h)), ("attn_q.bias", (h,)), ("attn_k.weight", (h, kv)),
                            ("attn_k.bias", (kv,)), ("attn_v.weight", (h, kv)), ("attn_v.bias", (kv,)), ("attn_output.weight", (h, h)),
                            ("ffn_norm.weight", (h,)), ("ffn_gate.weight", (h, mlp)), ("ffn_up.weight", (h, mlp)),
                            ("ffn_down.weight", (mlp, h))):
            out[f"blk.{k}.{name}"] = shape
    return out


def block_of(kind, rng):
    """Ordinary values, some 128 thousand of them."""
    if kind == "f16":
        return b"".join(struct.pack("<e", rng.gauss(0, 0.02)) for _ in range(1 << 17))
    if kind == "bf16":
        return b"".join(struct.pack("<f", rng.gauss(0, 0.02))[2:] for _ in range(1 << 17))
    return b"".join(struct.pack("<e32b", 0.0005, *(max(-127, min(127, round(rng.gauss(0, 40)))) for _ in range(32))) for _ in range(1 << 12))


def write_gguf(path, c, kind):
    tensors, at, infos = shapes(c), 0, b""
    sizes = {}
    for name, shape in tensors.items():
        number, elements, size = TYPES[kind if len(shape) == 2 else "f32"]
        sizes[name] = shape[0] * (shape[1] if len(shape) == 2 else 1) // elements * size
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, at)
        at += -(-sizes[name] // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts(c, kind)))
    for key, form, value in facts(c, kind):
        head += text(key) + struct.pack("<I", form) + (text(value) if form == STRING else struct.pack("<I" if form == UINT32 else "<f", value))
    head += infos
    block, part = block_of(kind, random.Random(1)), path.with_suffix(".part")
    with open(part, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for name, shape in tensors.items():
            n = sizes[name]
            source = block * (n // len(block) + 1) if len(shape) == 2 else struct.pack("<f", 1.0 if "norm" in name else 0.0) * (n // 4)
            f.write(source[:n] + b"\0" * (-n % ALIGNMENT))
    part.rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, type=pathlib.Path, help="llama-bench, or its directory")
    parser.add_argument("--model", required=True, type=pathlib.Path, help="directory of a checkpoint, for its config.json")
    parser.add_argument("--type", choices=FILE_TYPES, default="f16", help="of the matrices (default f16)")
    parser.add_argument("--tokens", type=int, default=512, help="of a prompt (default 512)")
    parser.add_argument("--repeat", type=int, default=8, help="prompts (default 8)")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    args = parser.parse_args()
    program = args.bench / "llama-bench" if args.bench.is_dir() else args.bench
    gguf = args.model / f"{args.type}.gguf"
    if not gguf.exists():
        write_gguf(gguf, json.loads((args.model / "config.json").read_text()), args.type)
    done = subprocess.run([program, "-m", gguf, "-p", str(args.tokens), "-n", "0", "-r", str(args.repeat), "-t", str(args.threads), "-ngl", "0",
                           "-o", "json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{program}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)[0]
    version = found["build_commit"] if found["build_number"] else ""  # unknown where it was not built from its repository
    print(json.dumps({"tokens_per_s": found["avg_ts"], "version": version, "type": args.type}))


if __name__ == "__main__":
    main()
