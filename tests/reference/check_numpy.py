"""A second opinion on the oracle: the same forward in plain numpy float64, from the files alone.

    python tests/reference/check_numpy.py [DIR]    every DIR/vectors/*.json against DIR/models (default: tests)

It shares no code with the oracle and knows nothing of PyTorch, so a mistake in how the oracle calls transformers, in what it
writes or in what the config means shows as a difference. The frequencies and the angles are rounded to float32 where the
reference rounds them (at position 600 that is worth 4e-5 of a score); all else is float64.
"""
import json
import math
import pathlib
import struct
import sys

import numpy as np

SCORE_TOLERANCE, PROBABILITY_TOLERANCE = 2e-5, 2e-6  # a fifth of what the tests allow


def read_safetensors(path):
    """{name: float64 array} of one file."""
    raw = path.read_bytes()
    (n,) = struct.unpack_from("<Q", raw)
    header, data = json.loads(raw[8:8 + n]), raw[8 + n:]
    header.pop("__metadata__", None)
    out = {}
    for name, entry in header.items():
        body = data[slice(*entry["data_offsets"])]
        if entry["dtype"] == "BF16":
            flat = (np.frombuffer(body, "<u2").astype("<u4") << 16).view("<f4")
        else:
            flat = np.frombuffer(body, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        out[name] = flat.astype(np.float64).reshape(entry["shape"])
    return out


def read_weights(directory):
    """All tensors of the directory, names without "model."."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors.update(read_safetensors(path))
    return {name.removeprefix("model."): value for name, value in tensors.items()}


def yarn(inv, rope, theta, dim, original):
    """(inv_freq, factor of cos and sin)."""
    def correction(turns):
        return dim * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))
    low, high = correction(rope.get("beta_fast", 32)), correction(rope.get("beta_slow", 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
    inv = inv / rope["factor"] * ramp + inv * (1 - ramp)
    return inv, rope.get("attention_factor") or 0.1 * math.log(rope["factor"]) + 1


def llama3(inv, rope):
    """Long wavelengths divided by the factor, short ones kept, a blend between."""
    wavelength = 2 * np.pi / inv
    original, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return inv / rope["factor"] * (1 - smooth) + inv * smooth


def frequencies(theta, dim):
    """theta^(-2i/dim), rounded to float32 at every step as the reference does: exponent, power, reciprocal."""
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    power = (theta ** exponent.astype(np.float64)).astype(np.float32)
    return (np.float32(1) / power).astype(np.float64)


def rotation(config, dim, n):
    """cos and sin, [n, dim / 2]."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config["rope_theta"]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    inv, scale = frequencies(theta, dim), 1.0
    if kind == "linear":
        inv = inv / rope["factor"]
    elif kind == "llama3":
        inv = llama3(inv, rope)
    elif kind == "yarn":
        inv, scale = yarn(inv, rope, theta, dim, rope["original_max_position_embeddings"])
    angle = (np.arange(n, dtype=np.float32)[:, None] * inv.astype(np.float32)[None, :]).astype(np.float64)
    return np.cos(angle) * scale, np.sin(angle) * scale


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, cos, sin):
    """x [heads, n, dim], the two halves of dim turned against each other."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def slides(config, layer):
    """Whether this layer sees only a window."""
    if config["model_type"] == "mistral":
        return config["sliding_window"] is not None
    if not config.get("use_sliding_window"):
        return False
    if config.get("layer_types"):
        return config["layer_types"][layer] == "sliding_attention"
    return layer >= config["max_window_layers"]


def attention(config, w, layer, x):
    """Before o_proj: [n, heads * dim]."""
    n, heads = len(x), config["num_attention_heads"]
    kv = config.get("num_key_value_heads") or heads
    at = f"layers.{layer}.self_attn."

    def project(name, count):
        y = x @ w[at + name + "_proj.weight"].T + w.get(at + name + "_proj.bias", 0)
        return y.reshape(n, count, -1).transpose(1, 0, 2)
    q, k, v = project("q", heads), project("k", kv), project("v", kv)
    if at + "q_norm.weight" in w:
        q = rms_norm(q, w[at + "q_norm.weight"], config["rms_norm_eps"])
        k = rms_norm(k, w[at + "k_norm.weight"], config["rms_norm_eps"])
    cos, sin = rotation(config, q.shape[-1], n)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    visible = (j <= i) & (j > i - config["sliding_window"]) if slides(config, layer) else j <= i
    out = [softmax(np.where(visible, q[h] @ k[h * kv // heads].T / math.sqrt(q.shape[-1]), -np.inf)) @ v[h * kv // heads]
           for h in range(heads)]
    return np.concatenate(out, axis=-1)


def logits(config, w, ids, option=None):
    """[n, labels]."""
    eps = config["rms_norm_eps"]
    x = w["embed_tokens.weight"][ids]
    for k in range(config["num_hidden_layers"]):
        at = f"layers.{k}."
        y = rms_norm(x, w[at + "input_layernorm.weight"], eps)
        x = x + attention(config, w, k, y) @ w[at + "self_attn.o_proj.weight"].T + w.get(at + "self_attn.o_proj.bias", 0)
        y = rms_norm(x, w[at + "post_attention_layernorm.weight"], eps)
        gate = y @ w[at + "mlp.gate_proj.weight"].T + w.get(at + "mlp.gate_proj.bias", 0)
        up = y @ w[at + "mlp.up_proj.weight"].T + w.get(at + "mlp.up_proj.bias", 0)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T + w.get(at + "mlp.down_proj.bias", 0)
    return head(config, w, rms_norm(x, w["norm.weight"], eps), option)


def head(config, w, h, option):
    """What the last norm's output becomes: [n, labels]."""
    if option:
        rows = w.get("lm_head.weight", w["embed_tokens.weight"])[[int(k) for k in option.split(":")[1].split(",")]]
        return h @ (rows[:1] - rows[1:]).T if option.endswith(("difference", "softmax")) else h @ rows.T
    if "v_head.summary.weight" in w:
        return h @ w["v_head.summary.weight"].T + w["v_head.summary.bias"]
    if "value_head_prefix" in config:
        y = h @ w[config["value_head_prefix"] + ".weight"].T
        return (y - config["mean"]) / config["std"] if config["normalize_reward"] else y
    if "score.0.weight" not in w:
        return h @ w["score.weight"].T + w.get("score.bias", 0)
    h = np.maximum(h @ w["score.0.weight"].T + w["score.0.bias"], 0)
    return h @ w["score.2.weight"].T + w["score.2.bias"]


def default_pool(directory, config, option):
    if option:
        return {"type": "LAST", "activation": "sigmoid" if option.endswith(("softmax", "sigmoid")) else "none"}
    if config["architectures"][0] == "Qwen2ForPrmModel":
        return {"type": "STEP", "activation": "sigmoid"}
    if not config["architectures"][0].endswith(("ProcessRewardModel", "TokenClassification")):
        return {"type": "LAST", "activation": "none"}
    step = None
    if (directory / "tokenizer.json").exists():
        added = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
        step = next(token["id"] for token in added if token["content"] == "<extra_0>")
    return {"type": "STEP", "activation": "class1", "step_token": step}


def pooled(how, scores, ids):
    """The values of one row."""
    if how["type"] == "MEAN":
        y = scores.mean(0)[None]
    elif how["type"] == "POSITIONS":
        y = scores[how["positions"]]
    elif how["type"] == "STEP":
        y = scores[np.array(ids) == how["step_token"]]
    else:
        y = {"LAST": scores[-1:], "CLS": scores[:1], "ALL": scores}[how["type"]]
    if how["activation"] == "sigmoid":
        return 1 / (1 + np.exp(-y))
    if how["activation"] == "none":
        return y
    return softmax(y) if how["activation"] == "softmax" else softmax(y)[:, 1:2]


def check(tests, path):
    """Largest difference of a vector file, as a part of what is tolerated."""
    vector = json.loads(path.read_text())
    directory = tests / "models" / vector["model"]
    config, w = json.loads((directory / "config.json").read_text()), read_weights(directory)
    worst = 0
    for row in vector["rows"]:
        how = {**default_pool(directory, config, vector.get("head")), **row.get("pool", {})}
        found = pooled(how, logits(config, w, row["ids"], vector.get("head")), row["ids"]).ravel()
        assert len(found) == len(row["values"]) > 0, (path.name, len(row["ids"]), how)
        tolerance = SCORE_TOLERANCE if how["activation"] == "none" else PROBABILITY_TOLERANCE
        worst = max(worst, np.abs(found - row["values"]).max() / tolerance)
    return worst


def check_all(tests):
    """Every vector; raises when one is off."""
    worst = {path.stem: check(tests, path) for path in sorted((tests / "vectors").glob("*.json"))}
    name = max(worst, key=worst.get)
    print(f"numpy float64 agrees on {sum(v <= 1 for v in worst.values())} of {len(worst)} vectors; "
          f"farthest: {name}, {worst[name]:.2f} of the tolerance")
    assert worst[name] <= 1, {k: round(v, 2) for k, v in worst.items() if v > 1}


if __name__ == "__main__":
    check_all(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[1])
