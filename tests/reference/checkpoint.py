"""Small random checkpoints: their tensors, and the files as Hugging Face lays them out."""
import json
import struct

import numpy
import torch

import specs

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What process reward models put after a step is in the middle of the list: it is to be found by its text.
ADDED_TOKENS = {248: "<|endoftext|>", 249: "<|im_end|>", 250: "<extra_0>", 251: "<extra_1>"}
STEP_TOKEN = 250
# Not a key of config.json: what --head says, or "value" for a value_head.safetensors beside the model.
HEAD = "_head"


def config_of(changes):
    """The dictionary that becomes config.json."""
    return {k: v for k, v in {**specs.BASE, **changes}.items() if v is not specs.ABSENT}


def head_dim(config):
    """Qwen3 has a default of its own."""
    default = 128 if config["model_type"] == "qwen3" else config["hidden_size"] // config["num_attention_heads"]
    return config.get("head_dim") or default


def kv_heads(config):
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def has_mlp_head(config):
    return config["architectures"][0] in ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel",
                                          "INFORMForSequenceClassification")


def has_no_class(config):
    """Neither transformers nor classes.py has one."""
    return config["architectures"][0] in ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel")


def shapes(config):
    """Name to shape of every tensor, names with "model."."""
    hidden, mlp, dim = config["hidden_size"], config["intermediate_size"], head_dim(config)
    heads, kv = config["num_attention_heads"], kv_heads(config)
    out = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for k in range(config["num_hidden_layers"]):
        layer = f"model.layers.{k}."
        out[layer + "input_layernorm.weight"] = out[layer + "post_attention_layernorm.weight"] = (hidden,)
        for name, width in (("q", heads * dim), ("k", kv * dim), ("v", kv * dim)):
            out[layer + f"self_attn.{name}_proj.weight"] = (width, hidden)
            if config["model_type"] == "qwen2" or config.get("attention_bias"):
                out[layer + f"self_attn.{name}_proj.bias"] = (width,)
        if config["model_type"] == "qwen3":
            out[layer + "self_attn.q_norm.weight"] = out[layer + "self_attn.k_norm.weight"] = (dim,)
        out[layer + "self_attn.o_proj.weight"] = (hidden, heads * dim)
        out[layer + "mlp.gate_proj.weight"] = out[layer + "mlp.up_proj.weight"] = (mlp, hidden)
        out[layer + "mlp.down_proj.weight"] = (hidden, mlp)
        if config.get("attention_bias"):
            out[layer + "self_attn.o_proj.bias"] = (hidden,)
        if config.get("mlp_bias"):
            out[layer + "mlp.gate_proj.bias"] = out[layer + "mlp.up_proj.bias"] = (mlp,)
            out[layer + "mlp.down_proj.bias"] = (hidden,)
    return {**out, **head_shapes(config)}


def head_shapes(config):
    """Tensors of the head, and of a language model's own beside it."""
    hidden, architecture = config["hidden_size"], config["architectures"][0]
    labels = len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
    if has_mlp_head(config):
        labels = {"Qwen2ForRewardModel": 1, "Qwen2ForProcessRewardModel": 2}.get(architecture, labels)
        return {"score.0.weight": (hidden, hidden), "score.0.bias": (hidden,), "score.2.weight": (labels, hidden),
                "score.2.bias": (labels,)}
    if architecture == "RewardModel":
        return {config["value_head_prefix"] + ".weight": (1, hidden)}
    head = {}
    if architecture.endswith(("ForCausalLM", "ForPrmModel")) and not config["tie_word_embeddings"]:
        head["lm_head.weight"] = (config["vocab_size"], hidden)
    if architecture.endswith("ForPrmModel") or config.get(HEAD) == "value":
        head.update({"v_head.summary.weight": (1, hidden), "v_head.summary.bias": (1,)})
    if architecture.endswith("Classification"):
        head["score.weight"] = (labels, hidden)
    if architecture.endswith("TokenClassification"):
        head["score.bias"] = (labels,)
    return head


def random_tensors(config, seed, dtype):
    """Weights for scores of order one that feel every part: norms far from 1, biases that matter, attention that is not flat,
    and embeddings so small that the first norm's eps counts."""
    rng = numpy.random.default_rng(seed)
    tensors = {}
    for name, shape in sorted(shapes(config).items()):
        values = rng.standard_normal(shape).astype(numpy.float32)
        if "norm" in name:
            values = 1 + 0.4 * values
        elif name.endswith("bias"):
            values *= 0.5
        elif "embed" in name:
            values *= 0.03
        else:
            values *= (1.6 if "q_proj" in name or "k_proj" in name else 1.0) / shape[1] ** 0.5
        tensors[name] = torch.from_numpy(values).to(DTYPES[dtype])
    return tensors


def stored_names(name, tensors):
    """The tensors under the names in the file."""
    if name == "no-prefix":
        return {k.removeprefix("model."): v for k, v in tensors.items()}
    if name == "ignored-tensors":
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"],
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    return tensors


def tensor_bytes(tensor):
    """Its little-endian bytes."""
    wide = tensor.contiguous()
    return (wide if wide.dtype == torch.float32 else wide.view(torch.int16)).numpy().tobytes()


def write_safetensors(path, tensors):
    """One file: u64 header length, JSON header, data."""
    names = {dtype: name for name, dtype in DTYPES.items()}
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
    names, weight_map = list(tensors), {}
    for k in range(n):
        file = f"model-{k + 1:05d}-of-{n:05d}.safetensors"
        part = names[k * len(names) // n:(k + 1) * len(names) // n]
        write_safetensors(directory / file, {name: tensors[name] for name in part})
        weight_map.update({name: file for name in part})
    total = sum(len(tensor_bytes(tensor)) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_tokenizer(directory):
    """No more of a tokenizer than the step token needs."""
    added = [{"id": k, "content": text, "special": True} for k, text in ADDED_TOKENS.items()]
    (directory / "tokenizer.json").write_text(json.dumps({"added_tokens": added}, indent=1) + "\n")


def empty(directory):
    """Makes it, without what was there."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()


def write(directory, name, config, tensors):
    """The checkpoint's directory, in place of what was there."""
    empty(directory)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if config["architectures"][0] == "Qwen2ForProcessRewardModel":
        write_tokenizer(directory)
    if name == "sharded":
        write_shards(directory, tensors, 3)
    else:
        write_safetensors(directory / "model.safetensors", stored_names(name, tensors))
