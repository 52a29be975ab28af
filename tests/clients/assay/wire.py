"""Messages to and from a broker: packing, chunks, errors, addresses. No sockets here."""
from __future__ import annotations

import os
import re
import struct
import uuid
from typing import Any, Dict, List, Optional, Union

import msgpack

# What the broker listens at. ZeroMQ reads more into such a text: abstract sockets, wildcards, an
# address to come from before a ';'.
ENDPOINT = re.compile(r"ipc://(?![@*])[^\0]*[^\0/]|"
                      r"tcp://([\w.-]+|\[[0-9a-fA-F:.]+\]):[1-9][0-9]{0,4}")


class AssayError(Exception):
    """What the broker refused, or what it did not do.

    code: one of PROTOCOL.md's (bad_request, unknown_job, key_reused, wrong_state, too_large ..), or
    one of the client's own: `unavailable` (no reply at all) and `timeout` (the job is not finished;
    it lives on). message: for people. field: path of the field in question, as "rows[3].pool.type",
    or None. retry_after_ms: with errors that pass with time, else None."""

    def __init__(self, code: str, message: str, field: Optional[str] = None,
                 retry_after_ms: Optional[int] = None) -> None:
        super().__init__(code, message, field, retry_after_ms)
        self.code, self.message = code, message
        self.field, self.retry_after_ms = field, retry_after_ms

    def __str__(self) -> str:
        return f"{self.code}: {self.field + ': ' if self.field else ''}{self.message}"


def default_endpoint() -> str:
    """ASSAY_ENDPOINT, or where assayd listens when it is not told."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.environ.get("ASSAY_ENDPOINT") or f"ipc://{state}/assay/broker.sock"


def random_key() -> str:
    """A job's key that nobody else has."""
    return f"client-{uuid.uuid4().hex}"


def pack_ids(ids: Any) -> Union[bytes, List[int]]:
    """Token ids as bytes of little-endian int32, the fastest form. What does not fit is left as a
    list: then the broker names the id that is wrong, in that row's result or in its error."""
    if isinstance(ids, (bytes, bytearray)):
        return bytes(ids)
    listed: List[int] = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    try:
        return struct.pack(f"<{len(listed)}i", *listed)
    except struct.error:
        return listed


def _plain(value: Any) -> Any:
    """numpy's and torch's values as Python's, for msgpack."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected what msgpack can hold, found {type(value).__name__}: {value!r:.100}")


def pack(value: Any) -> bytes:
    """Any value in msgpack. TypeError for what msgpack cannot hold."""
    # A lone surrogate is no text; passed on, it is its row's bad_text, not an exception for all.
    return msgpack.packb(value, default=_plain, unicode_errors="surrogatepass")


def request(op: str, **fields: Any) -> bytes:
    """A request's bytes."""
    return pack({"v": 1, "op": op, **fields})


def with_ids(row: Any) -> Dict[str, Any]:
    """The row with its ids in their fastest form. TypeError for what is no dict."""
    if not isinstance(row, dict):
        raise TypeError(f"expected a row as a dict, found {type(row).__name__}: {row!r:.100}")
    return {**row, "ids": pack_ids(row["ids"])} if "ids" in row else row


def text_or_messages(value: Any) -> Any:
    """Messages with all that a chat template may read, other values as they are. Datasets have None
    in keys that a message does not use, and so has the reference's template nothing there."""
    if not isinstance(value, (list, tuple)):
        return value
    return [{key: v for key, v in message.items() if v is not None or key == "content"}
            if isinstance(message, dict) else message for message in value]


def pack_row(row: Any) -> bytes:
    """A row in msgpack."""
    return pack(with_ids(row))


def with_packed_rows(fields: Dict[str, Any], packed_rows: List[bytes]) -> bytes:
    """A request's bytes, of fields and of rows that are packed already."""
    packer = msgpack.Packer()
    head = packer.pack_map_header(len(fields) + 1)
    parts = b"".join(pack(part) for item in fields.items() for part in item)
    rows = pack("rows") + packer.pack_array_header(len(packed_rows)) + b"".join(packed_rows)
    return head + parts + rows


class Submission:
    """A job's rows as `submit` requests: send what add() and last() give, in that order, and hand
    each reply to sent(). One chunk is in memory."""

    def __init__(self, key: str, fields: Dict[str, Any], chunk_rows: int = 512,
                 chunk_bytes: int = 8 << 20) -> None:
        self.key, self.n_rows = key, 0
        self.job: Optional[int] = None
        self._fields = {"v": 1, "op": "submit", "key": key,
                        **{name: value for name, value in fields.items() if value is not None}}
        self._chunk_rows, self._chunk_bytes = chunk_rows, chunk_bytes
        self._number, self._bytes = 0, 0
        self._chunk: List[bytes] = []

    def add(self, row: Any) -> Optional[bytes]:
        """A request, where the row begins a new chunk; else None."""
        packed, full = pack_row(row), None
        if self._chunk and (len(self._chunk) == self._chunk_rows
                            or self._bytes + len(packed) > self._chunk_bytes):
            full = self._end(False)
        self._chunk.append(packed)
        self._bytes += len(packed)
        self.n_rows += 1
        return full

    def last(self) -> bytes:
        """The request that seals the job."""
        return self._end(True)

    def sent(self, reply: Dict[str, Any]) -> None:
        """AssayError `unknown_job` if the chunk made a new job, which lacks those before it."""
        self.job = reply["job"] if self.job is None else self.job
        if reply["job"] != self.job:
            raise AssayError("unknown_job",
                             f"job {self.key} was purged while its rows were sent; cancel and "
                             "purge the one that has its key now, or take another key")

    def _end(self, seal: bool) -> bytes:
        body = with_packed_rows({**self._fields, "chunk": self._number, "seal": seal}, self._chunk)
        self._number, self._chunk, self._bytes = self._number + 1, [], 0
        return body
