"""The client that blocks."""
from __future__ import annotations

import contextlib
import math
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Union

import msgpack
import zmq

from .core import Core, Pages, Steps, T, Try, one_result, score_fields
from .rewards import rewards_of, row_or_error
from .types import Result, RowLike, Text
from .wire import AssayError, Submission, random_key, request, with_ids

Job = Union[int, str]  # a job's number, or its key


class Client(Core):
    __doc__ = Core.__doc__

    socket_type = zmq.REQ  # zmq.DEALER does as well

    def _try(self, body: bytes, wait_s: float) -> Optional[Dict[str, Any]]:
        """Send once; the reply's map, or None."""
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(self.socket_type)
        with socket:
            socket.linger, socket.ipv6 = 0, self.endpoint.startswith("tcp://[")
            socket.connect(self.endpoint)
            socket.send(body)
            if socket.poll(math.ceil(wait_s * 1000)):
                return msgpack.unpackb(socket.recv())
        return None

    def _run(self, steps: Steps[T]) -> T:
        """Take the steps."""
        came: Optional[Dict[str, Any]] = None
        try:
            while True:
                step = steps.send(came)
                if isinstance(step, Try):
                    came = self._try(step.body, step.wait_s)
                else:
                    time.sleep(step.seconds)
                    came = None
        except StopIteration as end:
            return end.value

    def call(self, op: str, **fields: Any) -> Dict[str, Any]:
        """Any operation of PROTOCOL.md: call("reload", dir="/models/new"). The reply's map, or
        AssayError."""
        return self._run(self._call(op, **fields))

    # ---- jobs ----

    def submit(self, rows: Iterable[RowLike], key: Optional[str] = None, priority: int = 0,
               chunk_rows: int = 512, chunk_bytes: int = 8 << 20, meta: Any = None,
               timeout_s: float = math.inf, model: Optional[str] = None,
               models: Optional[Sequence[str]] = None) -> str:
        """Make a job of the rows, any iterable, and seal it; returns its key. Returned means: all
        rows are synced to disk.

        The rows go out in chunks of chunk_rows, or fewer when they are long. A full queue is waited
        out, until timeout_s seconds are over (then AssayError `queue_full`). Without a key it is
        random. With one, the same call with the same rows may be made again at any time, also after
        an exception in the midst of it and by another process: each row is stored once. Other rows
        under the key are `key_reused`. If the job is purged meanwhile, AssayError `unknown_job`.

        priority: -100 to 100, larger first. meta: any value, kept with the job. model, or models (2
        to 8, an ensemble): who scores the rows that do not say it."""
        fields = {**score_fields(priority, model, models), "meta": meta}
        return self._submit(rows, key, fields, timeout_s, chunk_rows, chunk_bytes).key

    def _submit(self, rows: Iterable[RowLike], key: Optional[str], fields: Dict[str, Any],
                timeout_s: float, chunk_rows: int = 512,
                chunk_bytes: int = 8 << 20) -> Submission:
        deadline = time.monotonic() + timeout_s
        job = Submission(key or random_key(), fields, chunk_rows, chunk_bytes)
        for row in rows:
            chunk = job.add(row)
            if chunk is not None:
                job.sent(self._run(self._send(chunk, deadline=deadline)))
        job.sent(self._run(self._send(job.last(), deadline=deadline)))
        return job

    def page(self, job: Job, after: int = 0, limit: int = 1000,
             wait_s: float = 0.0) -> Dict[str, Any]:
        """One reply of `results`: {rows, next, done}. Keep `next` to go on from there, in another
        process too. limit: rows, 1 to 10000. wait_s: how long to wait for the first row."""
        return self._run(self._page(job, after, limit, wait_s))

    def results(self, job: Job, after: int = 0, timeout_s: float = math.inf) -> Iterator[Result]:
        """Iterate over a job's results in order of completion, each once, until all have come. A
        job that is open or paused is waited for; after timeout_s without its end, AssayError
        `timeout`. After what there is of a cancelled job comes AssayError `wrong_state`."""
        pages = Pages(self, job, job, after, timeout_s)
        while not pages.done:
            yield from self._run(pages.next())
        self._run(pages.cancelled())

    def score(self, rows: Iterable[RowLike], timeout_s: float = 600.0, key: Optional[str] = None,
              priority: int = 50, model: Optional[str] = None,
              models: Optional[Sequence[str]] = None) -> List[Result]:
        """Submit and wait: the results in the order of the rows. AssayError `timeout` when it takes
        longer than timeout_s: the job lives on, under the key that the message names. A job whose
        key is not given is purged once its results are here."""
        deadline, fields = time.monotonic() + timeout_s, score_fields(priority, model, models)
        job = self._submit(rows, key, fields, timeout_s)
        assert job.job is not None
        found = self._run(self._in_order(job.job, job.key, job.n_rows, deadline))
        if key is None:  # nobody needs the job any more; the results are here whatever becomes of it
            with contextlib.suppress(AssayError):
                self.call("purge", job=job.job, ephemeral=True)
        return found

    def best_of(self, prompt: Text, responses: Sequence[Text], timeout_s: float = 600.0,
                **fields: Any) -> Result:
        """The responses to one prompt: `scores`, one each, `best` (an index), `ranks`,
        `advantages` .. fields: a Row's other keys (model, models, pool, truncate ..). AssayError
        with the row's code when it cannot be scored."""
        row = {"prompt": prompt, "responses": list(responses), **fields}
        return one_result(self.score([row], timeout_s))

    def rank(self, query: str, documents: Sequence[str], timeout_s: float = 600.0,
             **fields: Any) -> Result:
        """The documents to one query, under a broker with a reranker's recipe: as best_of().
        fields: also `instruction`."""
        row = {"query": query, "documents": list(documents), **fields}
        return one_result(self.score([row], timeout_s))

    def compare(self, chosen: Text, rejected: Text, timeout_s: float = 600.0,
                **fields: Any) -> Result:
        """A pair, whole texts or with prompt=.. its two answers: `chosen`, `rejected` and
        `margin`, chosen less rejected."""
        row = {"chosen": chosen, "rejected": rejected, **fields}
        return one_result(self.score([row], timeout_s))

    def rewards(self, rows: Iterable[RowLike], timeout_s: float = 600.0,
                model: Optional[str] = None,
                models: Optional[Sequence[str]] = None) -> List[Optional[float]]:
        """score() for training loops: one float a row (an ensemble's mean), None for a row that
        failed; a warning of the logger `assay` says why. So is one whose text or messages are not
        what they must be, where score() would raise for all."""
        checked = [row_or_error(dict(row)) for row in rows]
        return rewards_of(self.score(checked, timeout_s, model=model, models=models))

    def status(self, job: Job) -> Dict[str, Any]:
        """state, total, done, failed (rows), rate (rows a second), eta_s .."""
        return self.call("status", job=job)

    def wait(self, job: Job, timeout_s: float = math.inf) -> Dict[str, Any]:
        """Wait until a job is done or cancelled; its status. AssayError `timeout` otherwise."""
        return self._run(self._wait(job, timeout_s))

    def jobs(self, state: Optional[str] = None) -> Iterator[Dict[str, Any]]:
        """Iterate over the status of all jobs, or of those in a state."""
        after, some = 0, {} if state is None else {"state": state}
        while True:
            page = self.call("jobs", after=after, **some)
            yield from page["jobs"]
            if not page["jobs"]:
                return
            after = page["next"]

    def cancel(self, job: Job) -> str:
        """Rows not finished are never scored; results there are stay. The job's state."""
        return self.call("cancel", job=job)["state"]

    def pause(self, job: Job) -> str:
        """Nothing more of the job is started. Its state."""
        return self.call("pause", job=job)["state"]

    def resume(self, job: Job, accept_mode: bool = False) -> str:
        """It goes on. accept_mode: also where the rest is then scored by another checkpoint or mode
        than the job was begun with; without it AssayError `wrong_state` says what differs."""
        return self.call("resume", job=job, accept_mode=accept_mode)["state"]

    def retry(self, job: Job) -> Dict[str, Any]:
        """Score failed rows again that may do better: {retried, kept, state}, rows."""
        return self.call("retry", job=job)

    def purge(self, job: Job) -> int:
        """Delete a job that is over, with its rows and results: 1; 0 where there is none of that
        name, so it may be repeated."""
        return self._run(self._purge(job))

    # ---- sessions: rows that grow, for a search ----

    def open(self, row: RowLike) -> str:
        """Open a session of this row, any Row without an id; its name. It is in the broker's
        memory, and gone when that is started again."""
        return self._run(self._send(request("open", row=with_ids(row))))["session"]

    def append(self, sessions: Iterable[str], more: Iterable[RowLike]) -> List[str]:
        """Append more[k], a dict of fields that sessions[k]'s row has, as {"steps": ["so 7"]}, to
        each of them; their new names. The names before are of no use from then on."""
        return self._run(self._append(sessions, more))

    def fork(self, session: str, n: int) -> List[str]:
        """n new sessions with this one's row, which stays; their names."""
        return self.call("fork", session=session, n=n)["sessions"]

    def score_sessions(self, sessions: Iterable[str], timeout_s: float = 600.0,
                       priority: int = 50) -> List[Result]:
        """score() of sessions' rows: the results in their order, each with its session's name as
        `id`. AssayError `unknown_session` when one is gone: open it again with its whole row. A
        broker that is killed once it has taken them forgets the sessions, and their scores still
        come."""
        return self._run(self._score_sessions(sessions, timeout_s, priority))

    def close_sessions(self, sessions: Iterable[str]) -> int:
        """Close them; how many were there."""
        return self.call("close", sessions=list(sessions))["closed"]

    # ---- the broker ----

    def hello(self) -> Dict[str, Any]:
        """version, protocol, mode, model, models, limits."""
        return self.call("hello")

    def info(self) -> Dict[str, Any]:
        """hello's, and counters, workers, queued_bytes .."""
        return self.call("info")
