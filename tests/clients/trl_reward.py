"""A reward function for TRL's GRPOTrainer (and RLOOTrainer), over assay_client.py.

    from trl_reward import assay_reward             # the broker of ASSAY_ENDPOINT
    trainer = GRPOTrainer(model, reward_funcs=assay_reward, train_dataset=dataset, args=args)

What is scored is what the trainer itself would give a reward model: of a conversational dataset,
the prompt's messages and the completion's through the reward model's chat template; of a standard
one, prompt and completion as one text, to which no token is added. Messages go whole, tool calls
and content in parts too, and the template writes of them what it would for the trainer. A row that
failed (too long, say, or a completion that is no text) is None, which the trainer leaves out of
that function's rewards; the log says why, and the other rows are scored.

The trainer scores the last token that is not the pad token of the reward model's tokenizer, or its
eos token where it has none, whatever the checkpoint's config.json says. Assay's pad token is
config.json's pad_token_id: a sequence classification that has none, or another than the trainer
would take, is a ValueError that says so.
"""
from assay_client import AssayClient


def _as_text_or_messages(value):
    """Messages with all that a chat template may read. The trainer's have None in keys that they
    do not use, and so has the reference's template nothing there."""
    if not isinstance(value, (list, tuple)):
        return value
    return [{key: v for key, v in message.items() if v is not None or key == "content"}
            if isinstance(message, dict) else message for message in value]


def _as_row(prompt, completion, fields):
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"text": prompt + completion, "add_special_tokens": False, **fields}
    prompt, completion = _as_text_or_messages(prompt), _as_text_or_messages(completion)
    if isinstance(prompt, list) and isinstance(completion, list) and completion:
        return {"messages": prompt + completion, **fields}
    return {"prompt": prompt, "completion": completion, **fields}


def _pad_rule(model, fields):
    """The pad rule of the rows: the trainer's is that of sequence classification."""
    if not model["architecture"].endswith("ForSequenceClassification"):
        return {}
    ours, tokenizer = model["pooling"]["pad_token"], model.get("tokenizer") or {}
    theirs = tokenizer.get("pad_token")
    theirs = tokenizer.get("eos_token") if theirs is None else theirs
    if fields.get("hf_pad_rule") is not False and (ours is None or theirs not in (None, ours)):
        token = "its id" if theirs is None else theirs
        raise ValueError(
            f"{model['name']}: expected the trainer's pad token as pad_token_id in config.json, "
            f"found {'none' if ours is None else ours}. The trainer scores the last token that is "
            "not the tokenizer's pad_token (its eos_token, where it has none): write "
            f"\"pad_token_id\": {token} into config.json and start the broker again, or use "
            "make_reward(hf_pad_rule=False), which scores the last token")
    return {"hf_pad_rule": True}


def make_reward(endpoint=None, name="assay_reward", timeout_s=600.0, **fields):
    """A reward function for this endpoint. `name` is what the trainer logs it under; `fields` go
    into every row (truncate=True, safe_text=True, pool={..})."""

    def reward(prompts, completions, **columns):
        """One float or None a completion. prompts and completions: lists of str, or lists of lists
        of messages."""
        client, pairs = AssayClient(endpoint), zip(prompts, completions)
        settings = {**_pad_rule(client.hello()["model"], fields), **fields}
        rows = [_as_row(prompt, completion, settings) for prompt, completion in pairs]
        return client.rewards(rows, timeout_s)

    reward.__name__ = name
    return reward


assay_reward = make_reward()
