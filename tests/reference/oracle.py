"""Scores as the reference computes them: transformers in float32, eager attention, each row alone and unpadded.

transformers has no class for the two reward architectures: there it is Qwen2Model, and the head
(Linear, ReLU, Linear) in torch float32.
"""
import copy

import torch
import transformers

DEFAULT_STEP_TOKEN = 5  # `<extra_0>` of the tokenizer.json that goes with process reward models


def trunk_and_head(config, tensors):
    """(model, head): the decoder, and a function from hidden states to logits. `tensors` are float32, names with "model."."""
    architecture = config["architectures"][0]
    known = copy.deepcopy({k: v for k, v in config.items() if v is not None})
    name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[config["model_type"]]
    settings = getattr(transformers, name + "Config")(**known)
    settings._attn_implementation = "eager"
    if architecture.startswith(("Qwen2ForReward", "Qwen2ForProcess")):
        model = transformers.Qwen2Model(settings).float().eval()
        load(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        linear = torch.nn.functional.linear
        return model, lambda h: linear(
            torch.relu(linear(h, tensors["score.0.weight"], tensors["score.0.bias"])), tensors["score.2.weight"],
            tensors["score.2.bias"])
    whole = getattr(transformers, architecture)(settings).float().eval()
    load(whole, tensors)
    return whole.model, whole.score


def load(model, tensors):
    """Strict: every weight of the model comes from `tensors`."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and not [m for m in missing if "rotary" not in m], (missing, unexpected)


@torch.no_grad()
def logits(model, head, ids):
    """[tokens, labels] of one row."""
    hidden = model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    return head(hidden)


def default_pool(config):
    """What the architecture does when nothing is said."""
    if config["architectures"][0] in ("Qwen2ForProcessRewardModel", "Qwen2ForTokenClassification"):
        return {"type": "STEP", "activation": "class1", "step_token": DEFAULT_STEP_TOKEN}
    return {"type": "LAST", "activation": "none"}


def pool(config, scores, ids, asked):
    """The flat list of values of a row."""
    how = dict(default_pool(config))
    if asked:
        how = {**how, **asked}
    n = len(ids)
    rows = {"LAST": [n - 1], "CLS": [0], "ALL": range(n), "MEAN": range(n), "POSITIONS": how.get("positions"),
            "STEP": [k for k in range(n) if ids[k] == how.get("step_token")]}[how["type"]]
    chosen = scores[list(rows)]
    if how["type"] == "MEAN":
        chosen = scores.mean(dim=0, keepdim=True)
    if how["activation"] == "sigmoid":
        chosen = torch.sigmoid(chosen)
    elif how["activation"] in ("softmax", "class1"):
        chosen = torch.softmax(chosen, dim=-1)
    if how["activation"] == "class1":
        chosen = chosen[:, 1:2]
    return [float(v) for v in chosen.flatten()]
