"""assay-http with as many clients as trainers have: 10,000 connections that are kept alive, 1,000 requests that wait at once."""
import json
import pathlib
import re
import resource
import selectors
import socket

import pytest
from harness import BIN, MODELS, PATIENCE, Broker
from http_harness import Http

KEPT, WAITING = 10_000, 1_000
MOST_BYTES = 1 << 30
# A sanitizer's shadow and its freed memory count as the process's, too.
IS_SANITIZED = "asan" in str(BIN)


def request_of(path, body=None):
    text = json.dumps(body) if body else ""
    return (f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
            + text).encode()


def has_all(reply):
    head, _, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return length and len(body) >= int(length.group(1))


def replies(sockets, timeout):
    """A whole reply of each, read as they come."""
    found, waits = {}, selectors.DefaultSelector()
    for s in sockets:
        waits.register(s, selectors.EVENT_READ)
        found[s] = b""
    while waits.get_map():
        ready = waits.select(timeout * PATIENCE)
        assert ready, f"{len(waits.get_map())} of {len(sockets)} got no reply"
        for key, _ in ready:
            more = key.fileobj.recv(65536)
            assert more, "closed"
            found[key.fileobj] += more
            if has_all(found[key.fileobj]):
                waits.unregister(key.fileobj)
    others = [reply for reply in found.values() if not reply.startswith(b"HTTP/1.1 200")]
    assert not others, (len(others), others[0])
    return [found[s].partition(b"\r\n\r\n")[2] for s in sockets]


def peak_bytes(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) << 10


def test_ten_thousand_kept_alive_and_a_thousand_waiting(tmp_path):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most[1] != resource.RLIM_INFINITY and most[1] < KEPT + 200:
        pytest.skip(f"this needs {KEPT + 200} open files; ulimit -Hn allows {most[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (KEPT + 200 if most[1] == resource.RLIM_INFINITY else most[1], most[1]))
    sockets = []
    try:
        with Broker(tmp_path / "d", model=MODELS / "demo-reward") as broker:
            with Http(tmp_path, broker, ["--max-connections", KEPT + 100]) as http:
                for _ in range(KEPT):
                    s = socket.create_connection((http.host, http.port), timeout=60 * PATIENCE)
                    sockets.append(s)
                    s.sendall(request_of("/health"))
                replies(sockets, 60)
                rows = [[1 + k % 300, 1 + k // 300, 7] for k in range(WAITING)]
                asking = sockets[::KEPT // WAITING]
                for s, row in zip(asking, rows, strict=True):
                    s.sendall(request_of("/classify", {"input": row, "use_activation": False}))
                scores = [json.loads(body)["data"][0]["probs"][0] for body in replies(asking, 60)]
                assert len(set(scores)) > WAITING // 2  # each its own row's, and
                alone = http.ok("/classify", {"input": rows[3], "use_activation": False})["data"][0]["probs"][0]
                assert scores[3] == alone
                for s in sockets:
                    s.sendall(request_of("/health"))
                replies(sockets, 60)  # nobody was dropped
                assert IS_SANITIZED or peak_bytes(http.process.pid) < MOST_BYTES
                print(f"peak {peak_bytes(http.process.pid) >> 20} MB")
    finally:
        for s in sockets:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
