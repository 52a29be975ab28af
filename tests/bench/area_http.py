"""v2: samples posted one a request through assay-http, against one job of the same rows through the socket; and assay-http beside
vLLM's server (area_serve.py)."""
import json
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import common
from common import Row, harness, say

sys.path.insert(0, str(common.HERE.parent / "e2e"))
from http_harness import Http  # noqa: E402
import area_serve  # noqa: E402

PROMPTS, RESPONSES = 8, 32
CLIENT = """
import http.client, json, sys, time
port, bodies = int(sys.argv[1]), json.load(sys.stdin)
connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=1200) for _ in bodies]
for connection in connections:
    connection.connect()
start = time.monotonic()
for connection, body in zip(connections, bodies):
    connection.request("POST", "/classify", json.dumps({"input": body}), {"Content-Type": "application/json"})
scores = [json.loads(connection.getresponse().read())["data"][0]["probs"][0] for connection in connections]
print(json.dumps([time.monotonic() - start, scores]))
"""


def rows(rng, prompt, response):
    prompts = [[rng.randrange(20, 250) for _ in range(prompt)] for _ in range(PROMPTS)]
    return [prompts[k % PROMPTS] + [rng.randrange(20, 250) for _ in range(response)] for k in range(PROMPTS * RESPONSES)]


def one_job(client, samples):
    """Rows that begin alike side by side, as a client that knows them all sends them."""
    sent = [{"ids": harness.ids_bytes(ids)} for ids in sorted(samples)]
    start = time.monotonic()
    found = client.call("score", rows=sent, timeout=1200, timeout_ms=1200000)["rows"]
    return time.monotonic() - start, dict(zip(map(tuple, sorted(samples)), (row["score"] for row in found)))


def one_by_one(port, samples):
    """All at once, a connection each, in any order; the seconds from the first request to the last reply, as in one_job."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return json.loads(client.communicate(json.dumps(samples))[0])


def tokens(client):
    return client.call("info")["workers"][0]["tokens"]


def compare(prompt, response, turns=5):
    """Seconds of each way in turns, and the tokens that were computed. Every score must be the same to the bit."""
    rng, seconds, computed = random.Random(5), ([], []), [0, 0]
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as path:
        path = pathlib.Path(path)
        with harness.Broker(path / "d", model=harness.MODELS / "demo-reward") as broker, broker.client() as client, Http(path, broker) as http:
            for turn in range(turns + 1):
                samples, before = rows(rng, prompt, response), tokens(client)
                job_s, wanted = one_job(client, samples)
                between = tokens(client)
                http_s, scores = one_by_one(http.port, samples)
                assert [wanted[tuple(ids)] for ids in samples] == [struct.unpack("<f", struct.pack("<f", x))[0] for x in scores], "scores differ"
                if turn > 0:
                    seconds[0].append(job_s)
                    seconds[1].append(http_s)
                    computed[0] += between - before
                    computed[1] += tokens(client) - between
                    say(f"v2: one job {job_s:.2f} s, through HTTP {http_s:.2f} s")
    return seconds, computed


def v2():
    for prompt, response in ((200, 200), (400, 100)):
        (job, by_http), computed = compare(prompt, response)
        n = PROMPTS * RESPONSES
        shape = f"{n} samples of {PROMPTS} prompts of {prompt} tokens, {response} more each"
        yield Row("v2", f"{shape}: rows/s posted one a request / in one job", f"{n / statistics.median(by_http):.0f} rows/s",
                  f"{n / statistics.median(job):.0f} rows/s", statistics.median(a / b for a, b in zip(job, by_http)), 0.9)
        yield Row("v2", "the same in tokens computed, of one job / one a request", f"{computed[1]:,}", f"{computed[0]:,}", computed[0] / computed[1])
    yield from area_serve.beside_vllm()
