"""Reward functions for verl, over assay_client.py, which lies beside this file:

    python -m verl.trainer.main_ppo reward.custom_reward_function.path=/path/to/verl_reward.py \\
        reward.custom_reward_function.name=compute_score ..

(without the first `reward.` in older versions). compute_score is for the managers that ask for one
response at a time (naive, dapo); compute_score_batch for the batch manager, and much the faster.
The broker is that of ASSAY_ENDPOINT. verl gives the response but not the prompt, so the prompt is
taken from extra_info: a text or messages, under `prompt_key`. Set it, and `failed_score`, with
custom_reward_function.reward_kwargs.
"""
import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # verl loads this file by its path
from assay_client import AssayClient  # noqa: E402


def compute_score_batch(data_sources, solution_strs, ground_truths, extra_infos,
                        prompt_key="question", failed_score=None, **kwargs):
    """One float a response. failed_score: what a row is worth that cannot be scored; None:
    ValueError."""
    for n, extra in enumerate(extra_infos):
        if prompt_key not in (extra or {}):
            raise ValueError(f"extra_infos[{n}]: expected the prompt under {prompt_key!r}, found "
                             f"{sorted(extra or {})}")
    rows = [{"prompt": extra[prompt_key], "response": text}
            for extra, text in zip(extra_infos, solution_strs)]
    scores = AssayClient().rewards(rows)
    failed = [n for n, score in enumerate(scores) if score is None]
    if failed and failed_score is None:
        raise ValueError(f"expected a score of every response, found none of {failed}; the log "
                         "says why")
    return [failed_score if score is None else score for score in scores]


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """The same for one response."""
    return compute_score_batch([data_source], [solution_str], [ground_truth], [extra_info],
                               **kwargs)[0]
