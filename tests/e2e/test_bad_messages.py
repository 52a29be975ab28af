"""Whatever a peer sends: an err reply that names field, expected and found, and a broker that lives."""
import random
import struct

import msgpack
import pytest
import zmq
from harness import random_key

GOOD_ROW = {"ids": [1, 2, 3]}


def pack(**fields):
    return msgpack.packb({"v": 1, "id": 7, **fields})


MALFORMED = {
    "empty": b"",
    "not msgpack": b"\xc1",
    "not a map": msgpack.packb([1, 2]),
    "truncated": pack(op="hello")[:-3],
    "trailing bytes": pack(op="hello") + b"\x00",
    "huge map": b"\xdf\xff\xff\xff\xff",
    "huge array": b"\x82\xa2op\xa6submit\xa4rows\xdd\xff\xff\xff\xff",
    "huge bin": b"\x82\xa2op\xa6submit\xa4rows\x91\x81\xa3ids\xc6\xff\xff\xff\xff",
    "extension": b"\x81\xa2op\xd4\x01\x00",
    "deep": pack(op="submit", key="k", chunk=0, meta=[[[[[[[[[[1]]]]]]]]]]),
    "duplicate key": b"\x83\xa1v\x01\xa2op\xa5hello\xa2op\xa5hello",
    "invalid utf-8": b"\x82\xa1v\x01\xa2op\xa3\xff\xfe\xfd",
}

BAD_FIELDS = [
    ({"op": "nonsense"}, "op", "bad_request"),
    ({"op": 5}, "op", "bad_request"),
    ({}, "op", "bad_request"),
    ({"op": "hello", "extra": 1}, "extra", "bad_request"),
    ({"op": "submit", "chunk": 0, "rows": [GOOD_ROW]}, "key", "bad_request"),
    ({"op": "submit", "key": "", "chunk": 0, "rows": [GOOD_ROW]}, "key", "bad_request"),
    ({"op": "submit", "key": "123", "chunk": 0, "rows": [GOOD_ROW]}, "key", "bad_request"),
    ({"op": "submit", "key": "k" * 201, "chunk": 0, "rows": [GOOD_ROW]}, "key", "bad_request"),
    ({"op": "submit", "key": "k", "rows": [GOOD_ROW]}, "chunk", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": -1, "rows": [GOOD_ROW]}, "chunk", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": {}}, "rows", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [GOOD_ROW], "priority": 101}, "priority", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [GOOD_ROW, 5]}, "rows[1]", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{}]}, "rows[0]", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"ids": "abc"}]}, "rows[0].ids", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"ids": b"123"}]}, "rows[0].ids", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"ids": [1, "2"]}]}, "rows[0].ids", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"ids": [1.5]}]}, "rows[0].ids", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"ids": [1], "nonsense": 1}]}, "rows[0].nonsense",
     "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"ids": [1], "id": 1.5}]}, "rows[0].id", "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"ids": [1], "pool": {"type": "X"}}]}, "rows[0].pool.type",
     "bad_request"),
    ({"op": "submit", "key": "k", "chunk": 0, "rows": [{"text": 7}]}, "rows[0].text", "bad_request"),
    ({"op": "results", "job": 1, "after": -1}, "after", "bad_request"),
    ({"op": "results", "job": 1, "wait_ms": 60001}, "wait_ms", "bad_request"),
    ({"op": "status"}, "job", "bad_request"),
    ({"op": "status", "job": [1]}, "job", "bad_request"),
]


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(broker, name):
    with broker.client() as client:
        reply = client.raw(MALFORMED[name])
        assert reply["ok"] is False and reply["err"]["message"]
        assert reply["err"]["code"] in ("bad_message", "bad_request"), reply
        assert client.call("hello")["ok"]


@pytest.mark.parametrize("fields,field,code", BAD_FIELDS, ids=[f"{f[1]}-{n}" for n, f in enumerate(BAD_FIELDS)])
def test_bad_field_is_named(broker, fields, field, code):
    with broker.client() as client:
        reply = client.raw(pack(**fields))
        assert reply["ok"] is False and reply["id"] == 7, reply
        assert reply["err"]["code"] == code, reply
        assert reply["err"].get("field", "").startswith(field), reply


def test_wrong_version(broker):
    with broker.client() as client:
        reply = client.raw(msgpack.packb({"v": 2, "op": "hello"}))
        assert reply["err"]["code"] == "unsupported" and "2" in reply["err"]["message"]


def test_a_refused_request_stores_nothing(broker):
    key = random_key()
    with broker.client() as client:
        client.raw(pack(op="submit", key=key, chunk=0, rows=[GOOD_ROW, {"ids": 5}]))
    assert broker.sql("select count(*) from jobs where key = ?", key) == [(0,)]


def test_too_many_rows(broker):
    with broker.client() as client:
        limit = client.call("hello")["limits"]["max_rows_per_message"]
        row = msgpack.packb({"ids": b""})
        body = (b"\x84\xa1v\x01\xa2op\xa6submit\xa3key\xa1k\xa4rows" + b"\xdd" + struct.pack(">I", limit + 1) +
                row * (limit + 1))
        assert client.raw(body)["err"]["code"] == "too_large"


def test_strange_envelopes(broker):
    """Empty frames, many frames, nothing but an envelope: no reply is owed, the broker goes on."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(broker.endpoint)
    for frames in ([b""], [b"", b""], [b"a"] * 40, [b"x", b"", pack(op="hello")], [b"", pack(op="hello"), b"more"]):
        socket.send_multipart(frames)
    with broker.client() as client:
        assert client.call("hello")["ok"]
    socket.close()
    context.term()


def test_random_mutations(broker):
    """A valid submit with bytes changed, cut and doubled: always a reply, never a crash."""
    rng = random.Random(5)
    good = pack(op="submit", key=random_key(), chunk=0, rows=[{"id": "a", "ids": [1, 2, 3], "pool": {"type": "LAST"}}])
    with broker.client() as client:
        for _ in range(1500):
            body = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(body))
                kind = rng.random()
                if kind < 0.6:
                    body[at] = rng.randrange(256)
                elif kind < 0.8:
                    del body[at:at + rng.randint(1, 5)]
                else:
                    body[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 5)))
                if not body:
                    body = bytearray(b"\x00")
            assert "ok" in client.raw(bytes(body))
        assert client.call("hello")["ok"]
    assert broker.process.poll() is None
