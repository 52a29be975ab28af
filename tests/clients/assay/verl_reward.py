"""Reward functions for verl, which takes them by their path:

    file=$(python -c 'import assay.verl_reward as m; print(m.__file__)')
    python -m verl.trainer.main_ppo reward.custom_reward_function.path=$file \\
        reward.custom_reward_function.name=compute_score ..

(without the first `reward.` in older versions). compute_score is for the managers that ask for one
response at a time (naive, dapo); compute_score_batch for the batch manager, and much the faster.
The broker is that of ASSAY_ENDPOINT. verl gives the response but not the prompt, so the prompt is
taken from extra_info: a text or messages, under `prompt_key`. Set it, and `failed_score`, with
custom_reward_function.reward_kwargs.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

from assay import Client


def compute_score_batch(data_sources: Sequence[Any], solution_strs: Sequence[Any],
                        ground_truths: Sequence[Any],
                        extra_infos: Sequence[Optional[Dict[str, Any]]],
                        prompt_key: str = "question", failed_score: Optional[float] = None,
                        **kwargs: Any) -> List[Optional[float]]:
    """One float a response. failed_score: what a row is worth that cannot be scored; None:
    ValueError."""
    for n, extra in enumerate(extra_infos):
        if prompt_key not in (extra or {}):
            raise ValueError(f"extra_infos[{n}]: expected the prompt under {prompt_key!r}, found "
                             f"{sorted(extra or {})}")
    rows = [{"prompt": (extra or {})[prompt_key], "response": text}
            for extra, text in zip(extra_infos, solution_strs)]
    scores = Client().rewards(rows)
    failed = [n for n, score in enumerate(scores) if score is None]
    if failed and failed_score is None:
        raise ValueError(f"expected a score of every response, found none of {failed}; the log "
                         "says why")
    return [failed_score if score is None else score for score in scores]


def compute_score(data_source: Any, solution_str: Any, ground_truth: Any,
                  extra_info: Optional[Dict[str, Any]] = None, **kwargs: Any) -> Optional[float]:
    """The same for one response."""
    return compute_score_batch([data_source], [solution_str], [ground_truth], [extra_info],
                               **kwargs)[0]
