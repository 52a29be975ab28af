"""Writes small adapters under tests/models/lora and, for rows of several of them, the values of the base that PEFT merged each
into, under tests/vectors/lora. Needs peft beside requirements.txt. Seeded: the same each time.

    python tests/reference/make_lora.py
"""
import json
import pathlib
import shutil
import zlib

import numpy
import peft
import safetensors.torch
import torch
import transformers

import checkpoint
import make_quantized
import oracle

TESTS = pathlib.Path(__file__).resolve().parents[1]
LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = [1, 7, 33, 64, 65, 150]
POOLS = [{"type": "LAST", "activation": "none"}, {"type": "MEAN", "activation": "none"}, {"type": "ALL", "activation": "none"}]


class Qwen2ForRewardModel(transformers.Qwen2PreTrainedModel):
    """Qwen's own class, which transformers does not have: its head is Linear, ReLU, Linear."""

    def __init__(self, config):
        super().__init__(config)
        n = config.hidden_size
        self.model = transformers.Qwen2Model(config)
        self.score = torch.nn.Sequential(torch.nn.Linear(n, n), torch.nn.ReLU(), torch.nn.Linear(n, 1))
        self.post_init()

    def forward(self, input_ids, **_):
        return self.score(self.model(input_ids=input_ids).last_hidden_state)


CLASSES = {"reward": Qwen2ForRewardModel, "seqcls": transformers.Qwen2ForSequenceClassification}
# The bases' adapters: what LoraConfig gets, and the type in which the file is stored.
ADAPTERS = {
    "reward": {
        "all": (dict(r=8, lora_alpha=16, target_modules=LAYER, modules_to_save=["score"]), torch.float32),
        "attention": (dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"]), torch.float32),
        "half": (dict(r=16, lora_alpha=8, target_modules=["mlp.down_proj", "o_proj"]), torch.bfloat16),
    },
    "seqcls": {
        "linear": (dict(r=3, lora_alpha=4, target_modules="all-linear", task_type="SEQ_CLS"), torch.float32),
        "expression": (dict(r=5, lora_alpha=5, target_modules=r".*\.1\..*(gate|up|k)_proj"), torch.float16),
        "patterns": (dict(r=2, lora_alpha=2, target_modules=["q_proj", "up_proj"], rank_pattern={"layers.1.self_attn.q_proj": 6},
                          alpha_pattern={"up_proj": 7, "layers.1.self_attn.q_proj": 3}), torch.float32),
    },
}


# Quantized bases; their adapters are over the values that the stored numbers mean.
QUANTIZED = {
    "pack-int4-group": dict(r=3, lora_alpha=6, target_modules=LAYER, task_type="SEQ_CLS"),
    "gptq-int4-order": dict(r=4, lora_alpha=4, target_modules=LAYER),
    "awq-int4": dict(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
    "naive-fp8-channel": dict(r=4, lora_alpha=4, target_modules=["k_proj", "gate_proj", "down_proj"]),
}


def dequantized_model(name):
    """As make_quantized.py made it."""
    changes, quantization, settings, kept, *_ = make_quantized.SPECS[name]
    seed = zlib.crc32(name.encode())
    config = checkpoint.config_of(changes)
    tensors = checkpoint.random_tensors(config, seed, "BF16")
    return oracle.whole_model(config, make_quantized.quantize(quantization, settings, kept, tensors, numpy.random.default_rng(seed + 1))[1])


def base_model(name):
    if name.startswith("quantized/"):
        return dequantized_model(name.removeprefix("quantized/"))
    directory = TESTS / "models" / name
    settings = transformers.Qwen2Config.from_dict(json.loads((directory / "config.json").read_text()))
    settings._attn_implementation = "eager"
    model = CLASSES[name](settings).float().eval()
    model.load_state_dict(safetensors.torch.load_file(directory / "model.safetensors"))
    return model


def logits(model, ids):
    """Of every token, in float32."""
    with torch.no_grad():
        if not isinstance(model, Qwen2ForRewardModel):
            return model.score(model.model(input_ids=ids).last_hidden_state)[0]
        return model(input_ids=ids)[0]


def make_adapter(base, name, settings, dtype, seed):
    """Saves the adapter, and returns the base with it merged, from the file."""
    directory = TESTS / "models" / "lora" / f"{base.replace('/', '-')}-{name}"
    torch.manual_seed(seed)
    wrapped = peft.get_peft_model(base_model(base), peft.LoraConfig(init_lora_weights=False, **settings))
    for key, value in wrapped.named_parameters():
        if "lora_" in key or "modules_to_save" in key:
            value.data = (torch.randn(value.shape) * (0.2 if "lora_" in key else 0.3)).to(dtype).float()
    shutil.rmtree(directory, ignore_errors=True)
    wrapped.to(dtype).save_pretrained(directory)
    (directory / "README.md").unlink()
    config = json.loads((directory / "adapter_config.json").read_text())
    for key, value in config.items():
        if isinstance(value, list) and key in ("target_modules", "modules_to_save"):
            config[key] = sorted(value)
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return peft.PeftModel.from_pretrained(base_model(base), directory).float().merge_and_unload().eval()


def pooled(values, pool):
    if pool["type"] == "LAST":
        values = values[-1:]
    return values.mean(0) if pool["type"] == "MEAN" else values.flatten()


def main():
    torch.set_num_threads(1)
    quantized = {f"quantized/{name}": {"only": (settings, torch.float32)} for name, settings in QUANTIZED.items()}
    for b, (base, adapters) in enumerate({**ADAPTERS, **quantized}.items()):
        models = {None: base_model(base)}
        for a, (name, (settings, dtype)) in enumerate(adapters.items()):
            models[name] = make_adapter(base, name, settings, dtype, 100 * b + a)
        rng, rows = numpy.random.default_rng(b), []
        for n in LENGTHS:
            for k, (name, model) in enumerate(models.items()):
                ids, pool = rng.integers(0, model.config.vocab_size, n).tolist(), POOLS[(n + k) % len(POOLS)]
                values = pooled(logits(model, torch.tensor([ids])), pool).tolist()
                rows.append({"ids": ids, "adapter": name, "pool": pool, "values": [float(f"{v:.9g}") for v in values]})
        # An adapter that moves nothing would show nothing.
        ids = torch.tensor([rows[-1]["ids"]])
        moves = [float((logits(models[name], ids) - logits(models[None], ids)).abs().max()) for name in adapters]
        assert min(moves) > 1e-2, moves
        how = f"make_lora.py, transformers {transformers.__version__}, peft {peft.__version__}, float32, each row alone"
        head = json.dumps({"model": base, "how": how, "tp": [1, 2], "adapters": list(adapters)})[:-1]
        path = TESTS / "vectors" / "lora" / f"{base.replace('/', '-')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + ', "rows": [\n' + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]}\n")
        print(base, moves)


if __name__ == "__main__":
    main()
