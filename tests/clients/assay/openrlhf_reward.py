"""A reward function for OpenRLHF, which takes it by its path:

    python -m openrlhf.cli.train_ppo_ray \\
        --reward.remote_url $(python -c 'import assay.openrlhf_reward as m; print(m.__file__)') ..

(--remote_rm_url in older versions).

The broker is that of ASSAY_ENDPOINT. `queries` are whole texts, prompt and response as the policy's
tokenizer writes them, control tokens included, and are scored as OpenRLHF's own server of reward
models does: no token is added to them, and the score is that of their last token, a pad token or
not.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional

from assay import Client

as_tensor: Any = list
try:
    from torch import tensor as as_tensor  # OpenRLHF expects tensors
except ImportError:
    pass

# A number here: that for a row that cannot be scored (too long, say), instead of an exception.
FAILED_REWARD: Optional[float] = None


def reward_func(queries: List[str], prompts: Any, labels: Any, **kwargs: Any) -> Dict[str, Any]:
    """rewards: one float a query, for the advantage; scores: the same, for dynamic filtering;
    extra_logs: for the log."""
    found = Client().rewards([{"text": query, "add_special_tokens": False,
                                    "hf_pad_rule": False} for query in queries])
    failed = [n for n, reward in enumerate(found) if reward is None]
    if failed and FAILED_REWARD is None:
        raise ValueError(f"expected a score of every query, found none of {failed}; the log says "
                         "why")
    rewards = as_tensor([FAILED_REWARD if reward is None else reward for reward in found])
    return {"rewards": rewards, "scores": rewards,
            "extra_logs": {"assay_failed": float(len(failed))}}
