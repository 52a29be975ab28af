"""That the golden values can fail a wrong forward: each thing a forward might get wrong must move some value by much more
than the tests tolerate."""
import copy

import checkpoint
import oracle

LEAST = 1e-3  # the tests tolerate 1e-4 on scores, 1e-5 on probabilities


def with_rope(config, change):
    """A copy in which `change` was applied to the object that holds the rope settings."""
    other = copy.deepcopy(config)
    holder = other.get("rope_parameters") or other.get("rope_scaling")
    if holder is None:
        holder = other["rope_scaling"] = {"rope_type": "default"}
    change(holder)
    return other


def rope_mistakes(config):
    """theta wrong, type ignored, each setting ignored."""
    holder = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if "rope_theta" in holder:
        yield "rope_theta", with_rope(config, lambda h: h.update(rope_theta=h["rope_theta"] / 2))
    else:
        yield "rope_theta", dict(config, rope_theta=config["rope_theta"] / 2)
    key = "type" if "type" in holder else "rope_type"
    if holder.get(key, "default") == "default":
        yield "rope type", with_rope(config, lambda h: h.update(rope_type="linear", factor=2.0))
    else:
        yield "rope type", with_rope(config, lambda h: h.update({key: "default"}))
    for setting in sorted(set(holder) - {key, "rope_theta"}):
        if setting in ("attention_factor", "beta_fast", "beta_slow", "truncate"):
            yield setting, with_rope(config, lambda h, s=setting: h.pop(s))
        else:
            yield setting, with_rope(config, lambda h, s=setting: h.update({s: h[s] * 2}))


def window_mistakes(config):
    """Off by one, not applied, applied to other layers; applied although switched off."""
    window = config.get("sliding_window")
    if not window:
        return
    if config["model_type"] == "mistral":
        for what, wrong in (("no window", None), ("window - 1", window - 1), ("window + 1", window + 1)):
            yield what, dict(config, sliding_window=wrong)
        return
    yield "use_sliding_window", dict(config, use_sliding_window=not config["use_sliding_window"])
    if config["use_sliding_window"]:
        yield "window - 1", dict(config, sliding_window=window - 1)
        yield "window + 1", dict(config, sliding_window=window + 1)
        types = config.get("layer_types")
        if types:
            yield "layer_types", dict(config, layer_types=types[1:] + types[:1])
        else:
            yield "max_window_layers", dict(config, max_window_layers=config["max_window_layers"] + 1)


def config_mistakes(config):
    """(what, config with it wrong)."""
    yield "rms_norm_eps", dict(config, rms_norm_eps=1e-5 if config["rms_norm_eps"] == 1e-6 else 1e-6)
    yield from rope_mistakes(config)
    yield from window_mistakes(config)
    for key in ("mean", "std"):
        if config.get("normalize_reward"):
            yield key, dict(config, **{key: config[key] * 1.1})


def mistakes(config, tensors):
    """(what, config, tensors) with one thing wrong: of the config, or a tensor shifted by one place."""
    for what, other in config_mistakes(config):
        if other.get("use_sliding_window") is False:
            other.pop("layer_types", None)
        yield what, other, tensors
    for name, tensor in tensors.items():
        if name == "lm_head.weight" and not config.get(checkpoint.HEAD, "").startswith("lm:"):
            continue  # it lies beside the head that scores
        yield name, config, {**tensors, name: tensor.float().roll(1, 0) + 0.05}


def sample(rows):
    """Five rows or so of all lengths but the longest: this runs the reference for each mistake."""
    fit = [row for row in rows if 5 <= len(row["ids"]) <= 300]
    return fit[::max(1, len(fit) // 5)]


def least_felt(config, tensors, rows):
    """(what, change): the mistake that changes the values least."""
    rows = sample(rows)
    right = oracle.score(config, tensors, rows)
    felt = {}
    for what, other_config, other_tensors in mistakes(config, tensors):
        wrong = oracle.score(other_config, other_tensors, rows)
        felt[what] = max(abs(a - b) for x, y in zip(right, wrong) for a, b in zip(x, y))
    return min(felt.items(), key=lambda item: item[1])
