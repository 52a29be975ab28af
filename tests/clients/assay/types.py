"""The dicts that go to a broker and come back. schema/PROTOCOL.md has all of it; here are the keys,
with their shapes. They are types for checkers: any dict of such keys will do."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, TypedDict, Union

Message = Dict[str, Any]
"""{role: str, content: str or parts}, perhaps reasoning_content, tool_calls and other keys."""

Text = Union[str, Sequence[Message]]
"""A text, or a conversation's messages."""

RowLike = Mapping[str, Any]
"""What methods take for a row: a dict with a Row's keys."""


class Row(TypedDict, total=False):
    """One of these shapes: `ids`; `text`; `messages`; `prompt` and `response` (or `completion`);
    `prompt` and `responses`; `chosen` and `rejected`, perhaps with `prompt`; `query` and `document`
    or `documents`; `prompt` (`problem`, `question`) and `steps`; `error`."""

    ids: Any  # token ids: list, tuple, numpy array, tensor, or bytes of little-endian int32
    text: str
    messages: Sequence[Message]
    prompt: Text
    problem: Text
    question: Text
    response: Text
    completion: Text
    responses: Sequence[Text]  # 1 to 4096
    chosen: Text
    rejected: Text
    query: str
    document: str
    documents: Sequence[str]  # 1 to 4096
    instruction: str
    steps: Sequence[str]
    error: Dict[str, str]  # {code, message}: the row fails with it, and keeps its place

    id: Union[int, str, None]  # comes back; a str of at most 256 bytes
    model: Optional[str]
    models: Optional[Sequence[str]]  # 2 to 8, an ensemble
    adapter: Optional[str]
    pool: Dict[str, Any]  # {type, step_token, positions, activation}
    truncate: bool
    max_length: int  # tokens
    truncation_side: str  # "left", "right"
    keep_last_token: bool
    hf_pad_rule: bool
    system: str
    tools: Any
    add_generation_prompt: bool
    chat_template_kwargs: Dict[str, Any]
    safe_text: bool
    join_content: bool
    add_special_tokens: bool


class RowError(TypedDict):
    """What is wrong with a row."""

    code: str  # too_long, bad_text, bad_token ..
    message: str


class Result(TypedDict, total=False):
    """i, id, n_tokens and error are always there; the others as the row's shape and the model
    give."""

    i: int  # the row's index in its job, from 0
    id: Union[int, str, None]
    n_tokens: int  # of all its sequences, after truncation
    error: Optional[RowError]
    pooled_at: List[Dict[str, int]]  # {i: position, id: token} of each token that was scored

    score: Optional[float]  # a float32; None in a failed row
    scores: List[float]  # one each: label, response, document, or model of an ensemble
    best: int  # index of the highest score
    ranks: List[int]  # 1: the highest
    margin: Optional[float]  # highest less second; of a pair chosen less rejected
    mean: Optional[float]
    std: Optional[float]
    advantages: List[float]
    chosen: float
    rejected: float
    steps: List[Any]  # one float a step or token, or a list of one float a label
    min: Optional[float]
    product: Optional[float]
    last: Optional[float]

    models: List[str]  # of an ensemble, as in the row
    spreads: List[float]  # of each response: standard deviation of the models' scores
    spread: float  # of a pair
    by_model: List[Dict[str, Any]]  # what each model gives alone

    labels: List[str]
    activation: str
    checkpoint: str
