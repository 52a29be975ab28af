"""Scores as the reference computes them: transformers in float32, eager attention, each row alone and unpadded.

transformers has no class for the two reward architectures: there it is Qwen2Model, and the head (Linear, ReLU, Linear) in
torch float32. Pooling and activation are float32 too.
"""
import copy

import torch
import transformers

from checkpoint import STEP_TOKEN, has_mlp_head

transformers.logging.set_verbosity_error()  # it warns of settings that are as they are on purpose
FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}


def settings_of(config):
    """The reference's own reading of config.json."""
    settings = getattr(transformers, FAMILIES[config["model_type"]] + "Config").from_dict(copy.deepcopy(config))
    settings._attn_implementation = "eager"
    return settings


def load(model, tensors):
    """Strict: every weight of the model comes from `tensors`, and every tensor goes into it."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and not [m for m in missing if "rotary" not in m], (missing, unexpected)


def mlp_head(tensors):
    linear = torch.nn.functional.linear

    def head(hidden):
        inner = torch.relu(linear(hidden, tensors["score.0.weight"], tensors["score.0.bias"]))
        return linear(inner, tensors["score.2.weight"], tensors["score.2.bias"])
    return head


def trunk_and_head(config, tensors):
    """(model, head): the decoder, and a function from hidden states to logits. `tensors`: float32, names with "model."."""
    settings = settings_of(config)
    if has_mlp_head(config):
        model = transformers.Qwen2Model(settings).float().eval()
        load(model, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        return model, mlp_head(tensors)
    whole = getattr(transformers, config["architectures"][0])(settings).float().eval()
    load(whole, tensors)
    return whole.model, whole.score


@torch.no_grad()
def logits(model, head, ids):
    """[tokens, labels] of one row. The head is float32 whatever the trunk is."""
    hidden = model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    return head(hidden.float())


def default_pool(config):
    """What the architecture does when a row says nothing."""
    if config["architectures"][0] in ("Qwen2ForProcessRewardModel", "Qwen2ForTokenClassification"):
        return {"type": "STEP", "activation": "class1", "step_token": STEP_TOKEN}
    return {"type": "LAST", "activation": "none"}


def pool(config, scores, ids, asked):
    """The flat list of values of a row."""
    how = {**default_pool(config), **(asked or {})}
    n = len(ids)
    rows = {"LAST": [n - 1], "CLS": [0], "ALL": range(n), "MEAN": range(n), "POSITIONS": how.get("positions"),
            "STEP": [k for k in range(n) if ids[k] == how.get("step_token")]}[how["type"]]
    chosen = scores[list(rows)]
    if how["type"] == "MEAN":
        chosen = chosen.mean(dim=0, keepdim=True)
    if how["activation"] == "sigmoid":
        chosen = torch.sigmoid(chosen)
    elif how["activation"] in ("softmax", "class1"):
        chosen = torch.softmax(chosen, dim=-1)
    if how["activation"] == "class1":
        chosen = chosen[:, 1:2]
    return [float(v) for v in chosen.flatten()]


def score(config, tensors, rows, dtype=torch.float32):
    """The values of each row, the trunk computed in `dtype` from the stored weights."""
    model, head = trunk_and_head(config, {k: v.float() for k, v in tensors.items()})
    model = model.to(dtype)
    return [pool(config, logits(model, head, row["ids"]), row["ids"], row.get("pool")) for row in rows]
