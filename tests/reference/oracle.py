"""Scores as the reference computes them: transformers in float32, eager attention, each row alone and unpadded.

transformers has no class for Qwen's two reward architectures: there it is Qwen2Model, and the head (Linear, ReLU, Linear) in
torch float32. classes.py has those of other publishers. Pooling and activation are float32 too.
"""
import copy

import torch
import transformers

import classes
from checkpoint import HEAD, STEP_TOKEN, has_no_class

transformers.logging.set_verbosity_error()  # it warns of settings that are as they are on purpose
FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "mistral": "Mistral"}


def settings_of(config):
    """The reference's own reading of config.json."""
    keys = {k: v for k, v in copy.deepcopy(config).items() if k != HEAD}
    settings = getattr(transformers, FAMILIES[config["model_type"]] + "Config").from_dict(keys)
    settings._attn_implementation = "eager"
    return settings


def load(model, tensors):
    """Strict: every weight of the model comes from `tensors`, and every tensor goes into it."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    tied = getattr(model.config, "tie_word_embeddings", False)
    missing = [m for m in missing if "rotary" not in m and not (tied and m == "lm_head.weight")]
    assert not unexpected and not missing, (missing, unexpected)


def mlp_head(tensors):
    linear = torch.nn.functional.linear

    def head(hidden):
        inner = torch.relu(linear(hidden, tensors["score.0.weight"], tensors["score.0.bias"]))
        return linear(inner, tensors["score.2.weight"], tensors["score.2.bias"])
    return head


def token_head(whole, option):
    """Of "lm:5,9:softmax": the logits of the tokens 5 and 9, or their difference."""
    _, ids, what = option.split(":")
    ids = [int(k) for k in ids.split(",")]

    def head(hidden):
        logits = whole.lm_head(hidden)[:, ids]
        return logits[:, :1] - logits[:, 1:] if what == "difference" else logits
    return head


def open_reward_model_head(config, whole):
    """As OpenRLHF's RewardModel does it in eval mode."""
    linear, mean, std = getattr(whole, config["value_head_prefix"]), config.get("mean", 0.0), config.get("std", 1.0)
    return (lambda hidden: (linear(hidden) - mean) / std) if config.get("normalize_reward") else linear


def whole_model(config, tensors):
    """The class's own model with its weights. A value head that lies in a file of its own is none of them."""
    whole = classes.build(config["architectures"][0], settings_of(config)).float().eval()
    beside = config.get(HEAD) == "value"
    load(whole, {k: v for k, v in tensors.items() if not (beside and k.startswith("v_head."))})
    return whole


def trunk_and_head(config, tensors):
    """(model, head): the decoder, and a function from hidden states to logits. `tensors`: float32, names with "model."."""
    if has_no_class(config):
        model = transformers.Qwen2Model(settings_of(config)).float().eval()
        load(model, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        return model, mlp_head(tensors)
    whole, architecture = whole_model(config, tensors), config["architectures"][0]
    if config.get(HEAD) == "value":
        weight, bias = tensors["v_head.summary.weight"], tensors["v_head.summary.bias"]
        return whole.model, lambda hidden: torch.nn.functional.linear(hidden, weight, bias)
    if config.get(HEAD):
        return whole.model, token_head(whole, config[HEAD])
    if architecture == "RewardModel":
        return whole.model, open_reward_model_head(config, whole)
    return whole.model, whole.v_head if architecture == "Qwen2ForPrmModel" else whole.score


@torch.no_grad()
def logits(model, head, ids):
    """[tokens, labels] of one row. The head is float32 whatever the trunk is."""
    hidden = model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    return head(hidden.float())


def default_pool(config):
    """What the architecture does when a row says nothing."""
    architecture = config["architectures"][0]
    if architecture == "Qwen2ForProcessRewardModel" or architecture.endswith("TokenClassification"):
        return {"type": "STEP", "activation": "class1", "step_token": STEP_TOKEN}
    if architecture == "Qwen2ForPrmModel":
        return {"type": "STEP", "activation": "sigmoid"}
    what = config.get(HEAD, "").rpartition(":")[2]
    return {"type": "LAST", "activation": {"softmax": "first", "sigmoid": "sigmoid"}.get(what, "none")}


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
    elif how["activation"] in ("softmax", "class1", "first"):
        chosen = torch.softmax(chosen, dim=-1)
    if how["activation"] in ("class1", "first"):
        at = 1 if how["activation"] == "class1" else 0
        chosen = chosen[:, at:at + 1]
    return [float(v) for v in chosen.flatten()]


def score(config, tensors, rows, dtype=torch.float32):
    """The values of each row, the trunk computed in `dtype` from the stored weights."""
    model, head = trunk_and_head(config, {k: v.float() for k, v in tensors.items()})
    model = model.to(dtype)
    return [pool(config, logits(model, head, row["ids"]), row["ids"], row.get("pool")) for row in rows]
