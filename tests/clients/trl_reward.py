"""A reward function for TRL's GRPOTrainer (and RLOOTrainer), over assay_client.py.

    from trl_reward import assay_reward             # the broker of ASSAY_ENDPOINT
    trainer = GRPOTrainer(model, reward_funcs=assay_reward, train_dataset=dataset, args=args)

What is scored is what the trainer itself would give a reward model: of a conversational dataset, the prompt's messages and the
completion's through the reward model's chat template; of a standard one, prompt and completion as one text. A row that failed
(too long, say) is None, which the trainer leaves out of that function's rewards.
"""
from assay_client import AssayClient


def _as_messages(messages):
    """Role and content alone: the trainer's messages may have more, tool calls for one."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _as_row(prompt, completion, fields):
    if isinstance(prompt, str):
        return {"text": prompt + completion, **fields}
    return {"messages": _as_messages(prompt) + _as_messages(completion), **fields}


def make_reward(endpoint=None, name="assay_reward", timeout_s=600.0, **fields):
    """A reward function for this endpoint. `name` is what the trainer logs it under; `fields` go into every row
    (truncate=True, safe_text=True, pool={..})."""

    def reward(prompts, completions, **columns):
        """One float or None a completion. prompts and completions: lists of str, or lists of lists of messages."""
        rows = [_as_row(prompt, completion, fields) for prompt, completion in zip(prompts, completions)]
        return AssayClient(endpoint).rewards(rows, timeout_s)

    reward.__name__ = name
    return reward


assay_reward = make_reward()
