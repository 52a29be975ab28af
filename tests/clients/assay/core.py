"""What both clients do, without a socket and without waiting: generators that yield a Try or a
Pause, and are sent what came of it. client.py takes these steps by blocking, aio.py by await."""
from __future__ import annotations

import math
import time
from typing import (Any, Dict, Generator, Iterable, List, NamedTuple, Optional, Sequence,
                    TypeVar, Union)

from .types import Result, RowLike
from .wire import (ENDPOINT, AssayError, default_endpoint, random_key, request, with_ids)

LONGEST_TRY_S = 60.0  # a request is sent again after resend_s, then twice that .., at most this
POLL_S = 2.0          # how long the broker may hold a `results` that has no row yet


class Try(NamedTuple):
    """Send the body once, by a socket of its own, and wait that long; the reply's map, or None."""

    body: bytes
    wait_s: float


class Pause(NamedTuple):
    """Sleep."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Union[Try, Pause], Any, T]
Reply = Dict[str, Any]


class Pages:
    """A job's results, page by page: next() until `done`. `job` is its number or key, `name` what
    to call it."""

    def __init__(self, core: Core, job: Union[int, str], name: Union[int, str], after: int,
                 timeout_s: float) -> None:
        self.done, self._core = False, core
        self._job, self._name, self._after = job, name, after
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s

    def next(self) -> Steps[List[Result]]:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise AssayError("timeout", f"job {self._name} is not finished after "
                                        f"{self._timeout_s:g} s; it lives on")
        page = yield from self._core._page(self._job, self._after, 1000, min(POLL_S, left),
                                           self._deadline)
        self._after, self.done = page["next"], page["done"]
        return page["rows"]

    def cancelled(self) -> Steps[None]:
        """After the last page: AssayError `wrong_state` if rows are missing for good."""
        status = yield from self._core._call("status", job=self._job)
        if status["state"] == "cancelled":
            raise AssayError("wrong_state", f"job {self._name} was cancelled with "
                                            f"{status['cancelled']} rows unfinished")


class Core:
    """endpoint: the broker's (default_endpoint() when None). timeout_s: how long the broker may
    give no reply at all, restarts included, before AssayError `unavailable`. resend_s: how long the
    first try of a request waits for its reply. Both in seconds.

    A method's own timeout_s is another clock: how long a queue may be full, or a job unfinished,
    while the broker replies."""

    def __init__(self, endpoint: Optional[str] = None, timeout_s: float = 60.0,
                 resend_s: float = 5.0) -> None:
        self.endpoint = endpoint or default_endpoint()
        self.timeout_s, self.resend_s = timeout_s, resend_s
        if not ENDPOINT.fullmatch(self.endpoint):
            raise ValueError("endpoint: expected ipc:///PATH or tcp://HOST:PORT, found "
                             f"{self.endpoint!r}")

    # ---- requests ----

    def _reply(self, body: bytes, held_s: float) -> Steps[Reply]:
        """Send until there is a reply. held_s: how long the broker itself may keep it back."""
        silent_since, patience = time.monotonic(), self.resend_s
        give_up = silent_since + held_s + self.timeout_s
        while time.monotonic() < give_up:
            left = give_up - time.monotonic()
            reply = yield Try(body, max(0.0, min(held_s + patience, left)))
            if reply is not None:
                return reply
            patience = min(2 * patience, LONGEST_TRY_S)
        silent_s = time.monotonic() - silent_since
        raise AssayError("unavailable", f"no reply from {self.endpoint} in {silent_s:.1f} s")

    def _send(self, body: bytes, held_s: float = 0.0, deadline: float = math.inf) -> Steps[Reply]:
        """Send until it is taken or refused for good; what passes with time is waited out until the
        deadline."""
        while True:
            reply = yield from self._reply(body, held_s)
            if reply["ok"]:
                return reply
            error = reply["err"]
            pause = error.get("retry_after_ms", 0) / 1000
            if not pause or time.monotonic() + pause > deadline:
                raise AssayError(error["code"], error["message"], error.get("field"),
                                 error.get("retry_after_ms"))
            yield Pause(pause)

    def _call(self, op: str, **fields: Any) -> Steps[Reply]:
        return (yield from self._send(request(op, **fields)))

    # ---- jobs ----

    def _page(self, job: Union[int, str], after: int, limit: int, wait_s: float,
              deadline: float = math.inf) -> Steps[Reply]:
        body = request("results", job=job, after=after, limit=limit, wait_ms=int(wait_s * 1000))
        return (yield from self._send(body, wait_s, deadline))

    def _in_order(self, job: Union[int, str], key: str, n_rows: int,
                  deadline: float) -> Steps[List[Result]]:
        """All results of a job, in the order of its rows."""
        found: Dict[int, Result] = {}
        pages = Pages(self, job, key, 0, deadline - time.monotonic())
        while not pages.done:
            rows = yield from pages.next()
            found.update((row["i"], row) for row in rows)
        if len(found) != n_rows:
            raise AssayError("wrong_state", f"job {key} was cancelled: {len(found)} of {n_rows} "
                                            "rows have a result")
        return [found[i] for i in range(n_rows)]

    def _wait(self, job: Union[int, str], timeout_s: float) -> Steps[Reply]:
        deadline, pause = time.monotonic() + timeout_s, 0.02
        while True:
            status = yield from self._call("status", job=job)
            if status["state"] in ("done", "cancelled"):
                return status
            if time.monotonic() + pause > deadline:
                raise AssayError("timeout", f"job {job} is {status['state']} after "
                                            f"{timeout_s:g} s; it lives on")
            yield Pause(pause)
            pause = min(2 * pause, 1.0)

    def _purge(self, job: Union[int, str]) -> Steps[int]:
        try:
            return (yield from self._call("purge", job=job))["jobs"]
        except AssayError as error:
            if error.code == "unknown_job":
                return 0
            raise

    # ---- sessions ----

    def _append(self, sessions: Iterable[str], more: Iterable[RowLike]) -> Steps[List[str]]:
        parts = [with_ids(part) for part in more]
        return (yield from self._call("append", sessions=list(sessions), more=parts))["sessions"]

    def _score_sessions(self, sessions: Iterable[str], timeout_s: float,
                        priority: int) -> Steps[List[Result]]:
        key, names, deadline = random_key(), list(sessions), time.monotonic() + timeout_s
        held_s = min(POLL_S, timeout_s)
        body = request("score", sessions=names, key=key, priority=priority, ephemeral=True,
                       timeout_ms=max(1, int(held_s * 1000)))
        try:
            return (yield from self._send(body, held_s, deadline))["rows"]
        except AssayError as error:
            if error.code not in ("timeout", "unknown_session"):
                raise
            refused = error
        try:
            return (yield from self._in_order(key, key, len(names), deadline))
        except AssayError as error:
            # The broker may have made the job, been killed before its reply and forgotten the
            # sessions: then the job goes on. Without a job the sessions were gone before.
            raise refused if error.code == "unknown_job" else error from None


def score_fields(priority: int, model: Optional[str],
                 models: Optional[Sequence[str]]) -> Dict[str, Any]:
    """What `submit` and `score` say for all rows."""
    return {"priority": priority, "model": model,
            "models": None if models is None else list(models)}


def one_result(found: List[Result]) -> Result:
    """The result of a request of one row. AssayError with the code of a row that failed."""
    (row,) = found
    error = row["error"]
    if error is not None:
        raise AssayError(error["code"], error["message"])
    return row
