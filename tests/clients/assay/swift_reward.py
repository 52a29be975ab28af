"""A reward of ms-swift's GRPO, which takes it as a plugin, by its path:

    swift rlhf --rlhf_type grpo --reward_funcs assay --external_plugins \\
        $(python -c 'import assay.swift_reward as m; print(m.__file__)') ..

The broker is that of ASSAY_ENDPOINT. What is scored is each sample's conversation, the completion
its last message, through the reward model's chat template. A row that failed is None, which
ms-swift has as NaN: it leaves it out of that function's rewards. The log says why.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

from assay import Client
from assay.wire import text_or_messages


class AssayReward:
    """Made by ms-swift with its arguments, which are of no use here."""

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        self.fields: Dict[str, Any] = {}  # of every row: set them in a class of your own

    def __call__(self, completions: Sequence[str], messages: Sequence[Any] = (),
                 **columns: Any) -> List[Optional[float]]:
        """One float or None a completion. messages: each one's conversation."""
        if len(messages) != len(completions):
            raise ValueError(f"messages: expected a conversation for each of {len(completions)} "
                             f"completions, found {len(messages)}")
        rows = [{"messages": text_or_messages(talk), **self.fields} for talk in messages]
        return Client().rewards(rows)


try:
    from swift.rewards import orms
except ImportError:  # imported for its path, say
    pass
else:
    orms["assay"] = AssayReward
