"""A reward function for OpenRLHF, over assay_client.py, which lies beside this file:

    python -m openrlhf.cli.train_ppo_ray --reward.remote_url /path/to/openrlhf_reward.py ..

(--remote_rm_url in older versions).

The broker is that of ASSAY_ENDPOINT. `queries` are whole texts, prompt and response as the policy's
tokenizer writes them, control tokens included, and are scored as OpenRLHF's own server of reward
models does: no token is added to them, and the score is that of their last token, a pad token or
not.
"""
import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # OpenRLHF loads this file by its path
from assay_client import AssayClient  # noqa: E402

try:
    from torch import tensor as as_tensor  # OpenRLHF expects tensors
except ImportError:
    as_tensor = list

# A number here: that for a row that cannot be scored (too long, say), instead of an exception.
FAILED_REWARD = None


def reward_func(queries, prompts, labels, **kwargs):
    """rewards: one float a query, for the advantage; scores: the same, for dynamic filtering;
    extra_logs: for the log."""
    rewards = AssayClient().rewards([{"text": query, "add_special_tokens": False,
                                      "hf_pad_rule": False} for query in queries])
    failed = [n for n, reward in enumerate(rewards) if reward is None]
    if failed and FAILED_REWARD is None:
        raise ValueError(f"expected a score of every query, found none of {failed}; the log says "
                         "why")
    rewards = as_tensor([FAILED_REWARD if reward is None else reward for reward in rewards])
    return {"rewards": rewards, "scores": rewards,
            "extra_logs": {"assay_failed": float(len(failed))}}
