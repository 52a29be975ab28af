"""Rows and results as trainers want them: one float a row, None for a row that failed."""
from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Sequence

from .types import Result
from .wire import pack_row


def _flaw(row: Dict[str, Any]) -> Optional[str]:
    """What is wrong with the form of a row's text or messages, None when nothing is. The broker
    refuses a whole request for it."""
    for key in ("text", "messages", "prompt", "response", "completion"):
        value = row.get(key, "")
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, str) and key != "messages" or key not in row:
            continue
        if not isinstance(value, (list, tuple)) or key == "text":
            expected = "a text" if key == "text" else "a text or messages"
            return f"{key}: expected {expected}, found {type(value).__name__}"
        for n, message in enumerate(value):
            if not isinstance(message, dict) or not all(isinstance(k, str) for k in message):
                return f"{key}[{n}]: expected a message, found {type(message).__name__}"
            for part, kinds in (("role", str), ("content", (str, list, tuple, type(None))),
                                ("reasoning_content", (str, type(None)))):
                found = message.get(part)
                if not isinstance(found, kinds):
                    return f"{key}[{n}].{part}: expected a text, found {type(found).__name__}"
            if "content" not in message and not message.get("tool_calls"):
                return f"{key}[{n}].content: expected a text, found nothing"
    return None


def row_or_error(row: Dict[str, Any]) -> Dict[str, Any]:
    """The row; or one that fails by itself, where its form would have all of them refused."""
    flaw = _flaw(row)
    try:
        pack_row(row)  # of a message's other keys any value goes that msgpack can hold
    except (TypeError, ValueError, OverflowError, RecursionError) as why:
        flaw = flaw or f"{type(why).__name__}: {why}"
    return row if flaw is None else {"error": {"code": "bad_request", "message": flaw}}


def rewards_of(found: Sequence[Result]) -> List[Optional[float]]:
    """One float a result, None for a failed one; the log (logger `assay`) says how many failed, and
    why the first did. Of an ensemble's row it is the mean. ValueError for results of another
    shape."""
    failed = [(row["i"], row["error"]) for row in found if row["error"] is not None]
    if failed:
        first, error = failed[0]
        logging.getLogger("assay").warning(
            "%d of %d rows failed; the first is %d: %s: %s", len(failed), len(found),
            first, error["code"], error["message"])
    for row in found:
        if "score" not in row and not ("models" in row and "by_model" not in row):
            raise ValueError(f"expected one score a row, found {sorted(row)}: rewards() is not "
                             "for this model or shape")
    return [row["score"] if "score" in row else row["mean"] for row in found]
