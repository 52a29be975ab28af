"""Requests of a client that has gone: what only asks is passed over, what changes something is done."""
import msgpack
from harness import Broker, wait_until


def test_nobody_gets_the_answers(directory):
    n = 900
    rows = [{"ids": [k % 400, k // 400, 2]} for k in range(3000)]
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("k", rows)
        assert len(client.results("k")) == len(rows)
        before = client.call("info")["counters"]["requests"]
        leaves = broker.client()
        leaves.socket.linger = -1
        ask = {"v": 1, "op": "results", "job": "k", "after": 0, "limit": len(rows)}
        submit = {"v": 1, "op": "submit", "key": "late", "chunk": 0, "rows": rows[:5], "seal": True}
        for number, request in enumerate([ask] * n + [submit]):
            leaves.socket.send_multipart([b"", msgpack.packb({**request, "id": number})])
        leaves.close()
        wait_until(lambda: any(job["key"] == "late" for job in client.call("jobs")["jobs"]), timeout=60)
        assert len(client.results("late")) == 5
        info = client.call("info")
        assert info["counters"]["requests"] - before < n, info
