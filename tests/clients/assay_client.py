"""A client of assayd in one file: copy it into a project. It needs pyzmq and msgpack (Python 3.9 or
later).

    from assay_client import AssayClient
    client = AssayClient("ipc://assay-data/broker.sock")
    client.score([{"text": "The sky is blue."}])[0]["score"]

    job = client.submit(({"id": n, "ids": ids} for n, ids in enumerate(corpus)), key="monday")
    for row in client.results(job):   # in order of completion; the broker may be killed meanwhile
        print(row["id"], row["score"] if row["error"] is None else row["error"]["code"])

A ROW is a dict of one of these shapes (schema/PROTOCOL.md has all of it):

    ids: token ids (list, tuple, numpy array, tensor, or bytes of little-endian int32)
    text: str                                       messages: [{role, content}, ..]
    prompt + response (each str or messages)        prompt + responses [str, ..]
    chosen + rejected (str or messages), prompt     prompt (or problem, question) + steps [str, ..]
    error: {code, message}, which fails with it

and may also have id (int or str, comes back), pool, system, tools, truncate, max_length,
truncation_side, keep_last_token, safe_text, join_content, add_generation_prompt,
add_special_tokens, hf_pad_rule and adapter.

A RESULT is a dict {i, id, n_tokens, pooled_at, error} with what the shape and the model give: score
(float), or scores and, for responses, best (index), ranks, margin, mean, std and advantages, or
chosen, rejected and margin, or steps [one probability each] and their min, product, last and mean. `i` is the row's index in its job. What is wrong with one row is that row's
`error` {code, message} and its score is None; its neighbours are scored.

A SEARCH scores rows that grow: open() keeps a row at the broker, append() and fork() make others of
it, score_sessions() scores them by name. What is kept so is gone when the broker is started again.

NOTHING IS LOST OR DOUBLED. Each try of a request has a socket of its own, so a reply that comes
late cannot be taken for another's. When none comes, because the broker was killed, say, the same
bytes go out again under the same key, and the broker stores a chunk once. `queue_full` and
`not_ready` are waited out as the broker asks. Only then comes an AssayError.

THREADS, FORKS: a client holds its settings and nothing else. Share one among threads, use it in a
forked child, pickle it.
"""
from __future__ import annotations

import logging
import math
import os
import re
import struct
import time
import uuid

import msgpack
import zmq

LONGEST_TRY_S = 60.0  # a request is sent again after resend_s, then twice that .., at most this
# What the broker listens at. ZeroMQ reads more into such a text: abstract sockets, wildcards, an
# address to come from before a ';'.
ENDPOINT = re.compile(r"ipc://(?![@*])[^\0]*[^\0/]|"
                      r"tcp://([\w.-]+|\[[0-9a-fA-F:.]+\]):[1-9][0-9]{0,4}")
POLL_S = 2.0          # how long the broker may hold a `results` that has no row yet


class AssayError(Exception):
    """What the broker refused, or what it did not do.

    code: one of PROTOCOL.md's (bad_request, unknown_job, key_reused, wrong_state, too_large ..), or
    one of the client's own: `unavailable` (no reply at all) and `timeout` (the job is not finished;
    it lives on). message: for people. field: path of the field in question, as "rows[3].pool.type",
    or None. retry_after_ms: with errors that pass with time, else None."""

    def __init__(self, code, message, field=None, retry_after_ms=None):
        super().__init__(code, message, field, retry_after_ms)
        self.code, self.message = code, message
        self.field, self.retry_after_ms = field, retry_after_ms

    def __str__(self):
        return f"{self.code}: {self.field + ': ' if self.field else ''}{self.message}"


def default_endpoint() -> str:
    """ASSAY_ENDPOINT, or where assayd listens when it is not told."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.environ.get("ASSAY_ENDPOINT") or f"ipc://{state}/assay/broker.sock"


def pack_ids(ids):
    """Token ids as bytes of little-endian int32, the fastest form. What does not fit is left as a
    list: then the broker names the id that is wrong, in that row's result or in its error."""
    if isinstance(ids, (bytes, bytearray)):
        return bytes(ids)
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    try:
        return struct.pack(f"<{len(ids)}i", *ids)
    except struct.error:
        return ids


def _plain(value):
    """numpy's and torch's values as Python's, for msgpack."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected what msgpack can hold, found {type(value).__name__}: {value!r:.100}")


def _pack(value) -> bytes:
    # A lone surrogate is no text; passed on, it is its row's bad_text, not an exception for all.
    return msgpack.packb(value, default=_plain, unicode_errors="surrogatepass")


def _with_ids(row) -> dict:
    if not isinstance(row, dict):
        raise TypeError(f"expected a row as a dict, found {type(row).__name__}: {row!r:.100}")
    return {**row, "ids": pack_ids(row["ids"])} if "ids" in row else row


def _pack_row(row) -> bytes:
    return _pack(_with_ids(row))


def _flaw(row):
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


def _row_or_error(row):
    flaw = _flaw(row)
    try:
        _pack_row(row)  # of a message's other keys any value goes that msgpack can hold
    except (TypeError, ValueError, OverflowError, RecursionError) as why:
        flaw = flaw or f"{type(why).__name__}: {why}"
    return row if flaw is None else {"error": {"code": "bad_request", "message": flaw}}


def _chunks(rows, chunk_rows, chunk_bytes):
    """(packed rows, is it the last?) of the rows in their order; one chunk is in memory."""
    chunk, size = [], 0
    for packed in map(_pack_row, rows):
        if chunk and (len(chunk) == chunk_rows or size + len(packed) > chunk_bytes):
            yield chunk, False
            chunk, size = [], 0
        chunk.append(packed)
        size += len(packed)
    yield chunk, True


def _body(fields: dict, packed_rows: list) -> bytes:
    """A request whose rows are packed already."""
    packer = msgpack.Packer()
    head = packer.pack_map_header(len(fields) + 1)
    parts = b"".join(_pack(part) for item in fields.items() for part in item)
    rows = _pack("rows") + packer.pack_array_header(len(packed_rows)) + b"".join(packed_rows)
    return head + parts + rows


class AssayClient:
    """endpoint: the broker's (default_endpoint() when None). timeout_s: how long the broker may
    give no reply at all, restarts included, before AssayError `unavailable`. resend_s: how long the
    first try of a request waits for its reply.

    A method's own timeout_s is another clock: how long a queue may be full, or a job unfinished,
    while the broker replies."""

    socket_type = zmq.REQ  # zmq.DEALER does as well

    def __init__(self, endpoint: str | None = None, timeout_s: float = 60.0, resend_s: float = 5.0):
        self.endpoint = endpoint or default_endpoint()
        self.timeout_s, self.resend_s = timeout_s, resend_s
        if not ENDPOINT.fullmatch(self.endpoint):
            raise ValueError("endpoint: expected ipc:///PATH or tcp://HOST:PORT, found "
                             f"{self.endpoint!r}")

    # ---- requests ----

    def _try(self, body: bytes, wait_s: float):
        """Send once; the reply's map, or None."""
        with zmq.Context.instance().socket(self.socket_type) as socket:
            socket.linger, socket.ipv6 = 0, self.endpoint.startswith("tcp://[")
            socket.connect(self.endpoint)
            socket.send(body)
            if socket.poll(math.ceil(wait_s * 1000)):
                return msgpack.unpackb(socket.recv())
        return None

    def _reply(self, body: bytes, held_s: float):
        """Send until there is a reply. held_s: how long the broker itself may keep it back."""
        silent_since, patience = time.monotonic(), self.resend_s
        give_up = silent_since + held_s + self.timeout_s
        while time.monotonic() < give_up:
            reply = self._try(body, max(0.0, min(held_s + patience, give_up - time.monotonic())))
            if reply is not None:
                return reply
            patience = min(2 * patience, LONGEST_TRY_S)
        silent_s = time.monotonic() - silent_since
        raise AssayError("unavailable", f"no reply from {self.endpoint} in {silent_s:.1f} s")

    def _send(self, body: bytes, held_s: float = 0.0, deadline: float = math.inf) -> dict:
        """Send until it is taken or refused for good; what passes with time is waited out until the
        deadline."""
        while True:
            reply = self._reply(body, held_s)
            if reply["ok"]:
                return reply
            error = reply["err"]
            pause = error.get("retry_after_ms", 0) / 1000
            if not pause or time.monotonic() + pause > deadline:
                raise AssayError(error["code"], error["message"], error.get("field"),
                                 error.get("retry_after_ms"))
            time.sleep(pause)

    def call(self, op: str, **fields) -> dict:
        """Any operation of PROTOCOL.md: call("pause", job="monday"). The reply's map, or
        AssayError."""
        return self._send(_pack({"v": 1, "op": op, **fields}))

    # ---- jobs ----

    def submit(self, rows, key: str | None = None, priority: int = 0, chunk_rows: int = 512,
               chunk_bytes: int = 8 << 20, meta=None, timeout_s: float = math.inf) -> str:
        """Make a job of the rows, any iterable, and seal it; returns its key. Returned means: all
        rows are synced to disk.

        The rows go out in chunks of chunk_rows, or fewer when they are long. A full queue is waited
        out, until timeout_s are over (then AssayError `queue_full`). Without a key it is random.
        With one, the same call with the same rows may be made again at any time, also after an
        exception in the midst of it and by another process: each row is stored once. Other rows
        under the key are `key_reused`. If the job is purged meanwhile, AssayError `unknown_job`."""
        return self._submit(rows, key, priority, chunk_rows, chunk_bytes, meta, timeout_s)[0]

    def _submit(self, rows, key, priority, chunk_rows=512, chunk_bytes=8 << 20, meta=None,
                timeout_s=math.inf) -> tuple:
        """The key and the number of the job: after a purge the key may be another job's."""
        key, deadline = key or f"client-{uuid.uuid4().hex}", time.monotonic() + timeout_s
        fields = {"v": 1, "op": "submit", "key": key, "priority": priority,
                  **({} if meta is None else {"meta": meta})}
        for number, (packed, last) in enumerate(_chunks(rows, chunk_rows, chunk_bytes)):
            reply = self._send(_body({**fields, "chunk": number, "seal": last}, packed),
                               deadline=deadline)
            first = reply["job"] if number == 0 else first
            if reply["job"] != first:  # the chunk made a new job, which lacks those before it
                raise AssayError("unknown_job",
                                 f"job {key} was purged while its rows were sent; cancel and purge "
                                 "the one that has its key now, or take another key")
        return key, first

    def page(self, job: str | int, after: int = 0, limit: int = 1000, wait_s: float = 0.0) -> dict:
        """One reply of `results`: {rows, next, done}. Keep `next` to go on from there, in another
        process too."""
        return self._page(job, after, limit, wait_s, math.inf)

    def _page(self, job, after, limit, wait_s, deadline):
        fields = {"job": job, "after": after, "limit": limit, "wait_ms": int(wait_s * 1000)}
        return self._send(_pack({"v": 1, "op": "results", **fields}), wait_s, deadline)

    def results(self, job: str | int, after: int = 0, timeout_s: float = math.inf):
        """Iterate over a job's results in order of completion, each once, until all have come. A
        job that is open or paused is waited for; after timeout_s without its end, AssayError
        `timeout`. After what there is of a cancelled job comes AssayError `wrong_state`."""
        yield from self._results(job, job, after, timeout_s)
        status = self.status(job)
        if status["state"] == "cancelled":
            raise AssayError("wrong_state", f"job {job} was cancelled with {status['cancelled']} "
                                            "rows unfinished")

    def _results(self, job, name, after, timeout_s):
        deadline, done = time.monotonic() + timeout_s, False
        while not done:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssayError("timeout",
                                 f"job {name} is not finished after {timeout_s:g} s; it lives on")
            page = self._page(job, after, 1000, min(POLL_S, left), deadline)
            yield from page["rows"]
            after, done = page["next"], page["done"]

    def score(self, rows, timeout_s: float = 600.0, key: str | None = None,
              priority: int = 50) -> list:
        """Submit and wait: the results in the order of the rows. AssayError `timeout` when it takes
        longer than timeout_s: the job lives on, under the key that the message names."""
        rows, deadline = list(rows), time.monotonic() + timeout_s
        named, (key, job) = key is not None, self._submit(rows, key, priority, timeout_s=timeout_s)
        found = self._in_order(job, key, len(rows), deadline)
        if not named:  # nobody needs the job any more
            self.call("purge", job=job, ephemeral=True)
        return found

    def _in_order(self, job, key, n_rows, deadline) -> list:
        found = {row["i"]: row
                 for row in self._results(job, key, 0, deadline - time.monotonic())}
        if len(found) != n_rows:
            raise AssayError("wrong_state", f"job {key} was cancelled: {len(found)} of {n_rows} "
                                            "rows have a result")
        return [found[i] for i in range(n_rows)]

    # ---- sessions: rows that grow, for a search ----

    def open(self, row) -> str:
        """Open a session of this row, any ROW without an id; its name."""
        return self._send(_pack({"v": 1, "op": "open", "row": _with_ids(row)}))["session"]

    def append(self, sessions, more) -> list:
        """Append more[k], a dict of fields that sessions[k]'s row has, as {"steps": ["so 7"]}, to
        each of them; their new names. The names before are of no use from then on."""
        return self._send(_pack({"v": 1, "op": "append", "sessions": list(sessions),
                                 "more": [_with_ids(part) for part in more]}))["sessions"]

    def fork(self, session: str, n: int) -> list:
        """n new sessions with this one's row, which stays; their names."""
        return self.call("fork", session=session, n=n)["sessions"]

    def score_sessions(self, sessions, timeout_s: float = 600.0, priority: int = 50) -> list:
        """score() of sessions' rows: the results in their order, each with its session's name as
        `id`. AssayError `unknown_session` when one is gone: open it again with its whole row."""
        key, deadline = f"client-{uuid.uuid4().hex}", time.monotonic() + timeout_s
        held_s = min(POLL_S, timeout_s)
        request = {"v": 1, "op": "score", "sessions": list(sessions), "key": key,
                   "priority": priority, "timeout_ms": max(1, int(held_s * 1000)), "ephemeral": True}
        try:
            return self._send(_pack(request), held_s, deadline)["rows"]
        except AssayError as error:
            if error.code != "timeout":
                raise
        return self._in_order(key, key, len(request["sessions"]), deadline)

    def close_sessions(self, sessions) -> int:
        """Close them; how many were there."""
        return self.call("close", sessions=list(sessions))["closed"]

    # ---- more ----

    def rewards(self, rows, timeout_s: float = 600.0) -> list:
        """score() for training loops: one float a row, None for a row that failed (a warning in the
        log says why). So is one whose text or messages are not what they must be, where score()
        would raise for all."""
        found = self.score([_row_or_error(row) for row in rows], timeout_s)
        failed = [row for row in found if row["error"] is not None]
        if failed:
            error = failed[0]["error"]
            logging.getLogger(__name__).warning(
                "%d of %d rows failed; the first is %d: %s: %s", len(failed), len(found),
                failed[0]["i"], error["code"], error["message"])
        for row in found:
            if "score" not in row:
                raise ValueError(f"expected one score a row, found {sorted(row)}: rewards() is not "
                                 "for this model or shape")
        return [row["score"] for row in found]

    def status(self, job: str | int) -> dict:
        """state, total, done, failed, rate, eta_s .."""
        return self.call("status", job=job)

    def wait(self, job: str | int, timeout_s: float = math.inf) -> dict:
        """Wait until a job is done or cancelled; its status. AssayError `timeout` otherwise."""
        deadline, pause = time.monotonic() + timeout_s, 0.02
        while True:
            status = self.status(job)
            if status["state"] in ("done", "cancelled"):
                return status
            if time.monotonic() + pause > deadline:
                raise AssayError("timeout", f"job {job} is {status['state']} after "
                                            f"{timeout_s:g} s; it lives on")
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def cancel(self, job: str | int) -> str:
        """Rows not finished are never scored; results there are stay. The job's state."""
        return self.call("cancel", job=job)["state"]

    def jobs(self, state: str | None = None):
        """Iterate over the status of all jobs, or of those in a state."""
        after, some = 0, {} if state is None else {"state": state}
        while True:
            page = self.call("jobs", after=after, **some)
            yield from page["jobs"]
            if not page["jobs"]:
                return
            after = page["next"]

    def hello(self) -> dict:
        """version, protocol, mode, model, limits."""
        return self.call("hello")

    def info(self) -> dict:
        """hello's, and counters, workers, queued_bytes .."""
        return self.call("info")
