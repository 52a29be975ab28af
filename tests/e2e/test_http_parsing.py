"""What reaches assay-http as bytes: heads that can be read in two ways, bodies that are slow, large, deep or no JSON."""
import json
import pathlib
import shutil
import socket
import tempfile
import time

import pytest
from harness import MODELS, PATIENCE, Broker
from http_harness import Http

BODY = b'{"input": "a"}'


@pytest.fixture(scope="module")
def http():
    path = pathlib.Path(tempfile.mkdtemp(prefix="assay-"))
    with Broker(path / "d", model=MODELS / "demo-reward") as broker, Http(path, broker, ["--max-body-bytes", 100000]) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


def head(*lines, body=BODY, path="/classify", length=True):
    """A request with these header lines beside the usual ones."""
    usual = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"] + [f"Content-Length: {len(body)}"] * length
    return "\r\n".join([*usual, *lines, "", ""]).encode("latin1") + body


def status(reply):
    assert reply.startswith(b"HTTP/1.1 "), reply[:200]
    return int(reply[9:12])


def post(http, body):
    code, _, text = http.ask("POST", "/classify", body, {"Content-Type": "application/json"})
    return code, json.loads(text)


def test_this_request_is_well_formed(http):
    assert status(http.raw(head("Connection: close"))) == 200


SMUGGLED = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("request_bytes", [
    head("Content-Length: 14"),
    head("Content-Length: 5"),
    head("Content-Length: 14, 14", length=False),
    head("Content-Length: +14", length=False),
    head("Content-Length: -1", length=False),
    head("Content-Length: 0x0e", length=False),
    head("Content-Length: 99999999999999999999", length=False),
    head("Transfer-Encoding: chunked", body=SMUGGLED),
    head("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=SMUGGLED, length=False),
    head("Transfer-Encoding: gzip, chunked", body=SMUGGLED, length=False),
    head("Transfer-Encoding: xchunked", body=SMUGGLED, length=False),
    head("Host: b"),
    head("Content-Type: text/plain"),
    b"POST /classify HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n" + BODY,
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
])
def test_a_head_that_can_be_read_in_two_ways_ends_its_connection(http, request_bytes):
    """Nothing behind it is taken for a request. (libmicrohttpd 0.9.75 writes the head of its own refusals twice.)"""
    reply = http.raw(request_bytes, timeout=5)
    heads = {line for line in reply.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}
    assert len(heads) <= 1 and b"assay_http" not in reply, reply
    assert not reply or status(reply) in (400, 411, 413, 501), reply


def test_huge_heads(http):
    reply = http.raw(head("X-Long: " + "a" * 100000), timeout=5)
    assert not reply or status(reply) in (400, 413, 431, 414)
    reply = http.raw(head(*[f"X-{k}: a" for k in range(5000)]), timeout=5)
    assert not reply or status(reply) in (400, 413, 431)
    assert http.get("/health")[0] == 200


def test_chunked_bodies(http):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:5], BODY[5:])) + b"0\r\n\r\n"
    assert status(http.raw(head("Transfer-Encoding: chunked", "Connection: close", body=chunks, length=False))) == 200
    large = b"%x\r\n" % 150000 + b"a" * 150000 + b"\r\n0\r\n\r\n"
    assert status(http.raw(head("Transfer-Encoding: chunked", "Connection: close", body=large, length=False))) == 413
    endless = b"%x\r\n" % 10**7 + b"a" * 10**6
    reply = http.raw(head("Transfer-Encoding: chunked", body=endless, length=False), timeout=20)
    assert reply == b"" or status(reply) == 413


def test_a_body_that_is_too_large_is_not_waited_for(http):
    assert status(http.raw(head("Content-Length: 100001", body=b"", length=False))) == 413


def test_requests_behind_each_other(http):
    """Pipelined ones are answered in their order."""
    reply = http.raw(head() + head("Connection: close", body=b'{"input": "b", "model": "x"}'))
    assert reply.count(b"HTTP/1.1 ") == 2 and reply.index(b" 200 ") < reply.index(b" 404 ")


@pytest.mark.parametrize("body,words", [
    (b"", "JSON"),
    (b"{", "JSON"),
    (b'{"input": "a"} x', "JSON"),
    (b'["a"]', "object"),
    (b'"a"', "object"),
    (b'{"input": "a", "input": "b"}', "duplicate"),
    (b'{"input": "\xff"}', "UTF-8"),
    (b'{"input": "\xed\xa0\x80"}', "UTF-8"),
    (b'{"input": "\\ud800"}', "JSON"),
    (b'{"input": NaN}', "JSON"),
    (b'{"input": 1e999}', "JSON"),
    (b'{"input": ' + b"[" * 17 + b"]" * 17 + b"}", "nesting"),
    (b'{"input": ' + b"[" * 40000, "nesting"),
    (b'{"a\\u0000b": 1}', "JSON"),
])
def test_bodies(http, body, words):
    code, reply = post(http, body)
    assert code == 400 and words in reply["error"]["message"], reply


def test_texts_of_any_characters(http):
    for text in ("\0", "a\0b", "\u2028\U0001f600", "\x7f\x01"):
        assert post(http, json.dumps({"input": text}).encode())[0] == 200


def test_a_slow_body_is_not_waited_for(http):
    """Bytes that drip do not keep a connection open."""
    with socket.create_connection((http.host, http.port), timeout=60 * PATIENCE) as s:
        s.sendall(head(body=b"", length=False).replace(b"\r\n\r\n", b"\r\nContent-Length: 90000\r\n\r\n"))
        began = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - began < 40 * PATIENCE:
                s.sendall(b"a")
                time.sleep(0.2)
        assert 8 < time.monotonic() - began < 40 * PATIENCE


def test_it_still_answers(http):
    assert http.get("/ready")[0] == 200 and http.ok("/classify", {"input": "a"})
