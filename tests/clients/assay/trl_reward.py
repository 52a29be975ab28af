"""A reward function for TRL's GRPOTrainer (and RLOOTrainer).

    from assay.trl_reward import assay_reward       # the broker of ASSAY_ENDPOINT
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
from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

from assay import Client
from assay.wire import text_or_messages


def _as_row(prompt: Any, completion: Any, fields: Dict[str, Any]) -> Dict[str, Any]:
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"text": prompt + completion, "add_special_tokens": False, **fields}
    prompt, completion = text_or_messages(prompt), text_or_messages(completion)
    if isinstance(prompt, list) and isinstance(completion, list) and completion:
        return {"messages": prompt + completion, **fields}
    return {"prompt": prompt, "completion": completion, **fields}


def _pad_rule(model: Dict[str, Any], fields: Dict[str, Any]) -> Dict[str, Any]:
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


def _pad_rules(hello: Dict[str, Any], fields: Dict[str, Any]) -> Dict[str, Any]:
    """The same of the models that the fields name. An ensemble's must have one rule."""
    served = {entry["name"]: entry["model"] for entry in hello["models"]}
    names = fields.get("models") or [fields.get("model") or hello["model"]["name"]]
    judged = [served.get(name) or served.get(name.split("/")[0]) for name in names]
    rules = [_pad_rule(model, fields) for model in judged if model]  # no such model: its rows fail
    if any(rule != rules[0] for rule in rules) and "hf_pad_rule" not in fields:
        raise ValueError(f"models: expected one rule about pad tokens, found {names}, of which "
                         "some are sequence classifications: say hf_pad_rule")
    return rules[0] if rules else {}


def make_reward(endpoint: Optional[str] = None, name: str = "assay_reward",
                timeout_s: float = 600.0, **fields: Any) -> Callable[..., List[Optional[float]]]:
    """A reward function for this endpoint. `name` is what the trainer logs it under; `fields` go
    into every row (truncate=True, safe_text=True, pool={..}, model=.., models=[..]: an ensemble,
    whose mean is the reward)."""

    def reward(prompts: Sequence[Any], completions: Sequence[Any],
               **columns: Any) -> List[Optional[float]]:
        """One float or None a completion. prompts and completions: lists of str, or lists of lists
        of messages."""
        client, pairs = Client(endpoint), zip(prompts, completions)
        settings = {**_pad_rules(client.hello(), fields), **fields}
        rows = [_as_row(prompt, completion, settings) for prompt, completion in pairs]
        return client.rewards(rows, timeout_s)

    reward.__name__ = name
    return reward


assay_reward = make_reward()
