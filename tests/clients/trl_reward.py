"""A reward function for TRL's GRPOTrainer (and RLOOTrainer), over assay_client.py.

    from trl_reward import assay_reward             # the broker of ASSAY_ENDPOINT
    trainer = GRPOTrainer(model, reward_funcs=assay_reward, train_dataset=dataset, args=args)

What is scored is what the trainer itself would give a reward model: of a conversational dataset,
the prompt's messages and the completion's through the reward model's chat template; of a standard
one, prompt and completion as one text, to which no token is added. A row that failed (too long, say, or a completion that is no
text, or with tool calls that the template would write) is None, which the trainer leaves out of
that function's rewards; the log says why, and the other rows are scored.
"""
from assay_client import AssayClient


def _as_message(message):
    """What a chat template may read: the trainer's messages may have more, and what they do not use
    is None there. Of tool calls the broker needs to know only that there are some."""
    if not isinstance(message, dict):
        return message
    kept = {key: message.get(key) for key in ("role", "content")}
    if message.get("reasoning_content") is not None:
        kept["reasoning_content"] = message["reasoning_content"]
    return {**kept, "tool_calls": True} if message.get("tool_calls") else kept


def _as_text_or_messages(value):
    if isinstance(value, (list, tuple)):
        return [_as_message(message) for message in value]
    return value


def _as_row(prompt, completion, fields):
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"text": prompt + completion, "add_special_tokens": False, **fields}
    prompt, completion = _as_text_or_messages(prompt), _as_text_or_messages(completion)
    if isinstance(prompt, list) and isinstance(completion, list):
        return {"messages": prompt + completion, **fields}
    return {"prompt": prompt, "completion": completion, **fields}


def make_reward(endpoint=None, name="assay_reward", timeout_s=600.0, **fields):
    """A reward function for this endpoint. `name` is what the trainer logs it under; `fields` go
    into every row (truncate=True, safe_text=True, pool={..})."""

    def reward(prompts, completions, **columns):
        """One float or None a completion. prompts and completions: lists of str, or lists of lists
        of messages."""
        pairs = zip(prompts, completions)
        rows = [_as_row(prompt, completion, fields) for prompt, completion in pairs]
        return AssayClient(endpoint).rewards(rows, timeout_s)

    reward.__name__ = name
    return reward


assay_reward = make_reward()
