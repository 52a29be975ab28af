"""assay-http over time: clients and brokers that leave, queues that are full, many samples at once, keys, TLS, signals."""
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time

import pytest
from harness import BIN, FAULTY_WORKER, MODELS, PATIENCE, Broker, changed_model, wait_until
from http_harness import Http, float32

MODEL = MODELS / "demo-reward"
JSON = {"Content-Type": "application/json"}
TOKEN = "s3cret-token-of-the-trainer"


def many(http, bodies, path="/classify", clients=32):
    """Each body in a request of its own, by so many clients at once; the replies in order."""
    replies, order, lock = [None] * len(bodies), iter(range(len(bodies))), threading.Lock()

    def work():
        connection = http.connect()
        while True:
            with lock:
                k = next(order, None)
            if k is None:
                return connection.close()
            connection.request("POST", path, json.dumps(bodies[k]), JSON)
            reply = connection.getresponse()
            replies[k] = (reply.status, json.loads(reply.read()))

    threads = [threading.Thread(target=work) for _ in range(clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return replies


def counted(http, name):
    return sum(float(line.split()[-1]) for line in http.get("/metrics")[1].splitlines() if line.startswith(name))


def test_many_samples_become_few_jobs(directory):
    """64 samples of 8 prompts by 64 clients: the socket's scores, each to the one who asked, in fewer jobs."""
    bodies = [{"prompt": f"What is {p} + 4? " * 6, "response": str(r)} for r in range(8) for p in range(8)]
    with Broker(directory / "d", model=MODEL) as broker, broker.client() as client, Http(directory, broker) as http:
        replies = many(http, bodies, "/rm", clients=64)
        wanted = [row["score"] for row in client.call("score", rows=bodies)["rows"]]
        assert [status for status, _ in replies] == [200] * 64
        assert [float32(score) for _, score in replies] == wanted
        assert counted(http, "assay_http_jobs_total") < 32 and counted(http, "assay_http_job_rows_total") == 64
        wait_until(lambda: not broker.sql("select key from jobs where key like 'assay-http/%'"))


def test_one_bad_sample_fails_alone(directory):
    """Among samples that share jobs, each bad one has an error of its own."""
    bodies = [{"input": [[1, 2, k]] if k % 5 else [[1, 10**6]]} for k in range(40)]
    with Broker(directory / "d", model=MODEL) as broker, Http(directory, broker) as http:
        replies = many(http, bodies, clients=40)
    assert [status for status, _ in replies] == [200 if k % 5 else 400 for k in range(40)]
    assert all("bad_token" in reply["error"]["message"] for status, reply in replies if status == 400)


def test_a_client_that_leaves_frees_what_waits(directory):
    with Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512]) as broker, Http(directory, broker) as http:
        body = json.dumps({"input": [[k % 300, 5, 7, k // 300] * 200 for k in range(600)]})
        connection = http.connect()
        connection.request("POST", "/classify", body, JSON)
        wait_until(lambda: counted(http, "vllm:num_requests_running") == 1)
        connection.close()
        wait_until(lambda: counted(http, "vllm:num_requests_running") == 0)
        wait_until(lambda: not broker.sql("select key from jobs"))
        assert http.ok("/classify", {"input": "a"})
        assert broker.process.poll() is None


def test_a_client_that_gives_up_and_sends_again(directory):
    """Its rows are computed once: the same request takes over what the first one left, under way or done; another one does not."""
    rows = [[k, 5, 7, 9] * 150 for k in range(10)]
    body = json.dumps({"input": rows})
    with Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 600, "--no-dedupe"]) as broker, Http(directory, broker) as http, broker.client() as client:
        def give_up(body):
            connection = http.connect()
            connection.request("POST", "/classify", body, JSON)
            wait_until(lambda: counted(http, "vllm:num_requests_running") == 1)
            connection.close()
            wait_until(lambda: counted(http, "vllm:num_requests_running") == 0)

        def accepted():
            return client.call("info")["counters"]["rows_accepted"]

        give_up(body)
        other = http.ok("/classify", {"input": [rows[0]]})
        status, _, text = http.ask("POST", "/classify", body, JSON)
        assert status == 200 and accepted() == 11
        found = [one["probs"] for one in json.loads(text)["data"]]
        assert found[0] == other["data"][0]["probs"]
        give_up(body)
        wait_until(lambda: not broker.sql("select key from jobs"))
        status, _, text = http.ask("POST", "/classify", body, JSON)
        assert status == 200 and accepted() == 21 and [one["probs"] for one in json.loads(text)["data"]] == found
        assert http.ok("/classify", {"input": rows})["data"] and accepted() == 31  # once


def leave_results(http, broker, body):
    """A client posts the body and gives up; the broker finishes its rows all the same."""
    connection = http.connect()
    connection.request("POST", "/classify", json.dumps(body), JSON)
    wait_until(lambda: counted(http, "vllm:num_requests_running") == 1)
    connection.close()
    wait_until(lambda: counted(http, "vllm:num_requests_running") == 0)
    wait_until(lambda: not broker.sql("select key from jobs where state <> 'done'"))


def names_served(http):
    return [model["id"] for model in json.loads(http.ask("GET", "/v1/models")[2])["data"]]


def test_a_name_that_was_just_given_is_known(directory):
    """No request is refused for a name that the broker has by then; one that it has not is refused as ever, however many ask."""
    lora, rows = MODELS / "lora", [[5, 7, 9]]
    with Broker(directory / "d", model=MODELS / "reward") as broker, Http(directory, broker) as http, broker.client() as client:
        for k in range(20):
            client.call("adapter_add", name=f"x{k}", dir=str(lora / "reward-half"), timeout=60 * PATIENCE)
            assert http.post("/classify", {"model": f"x{k}", "input": rows})[0] == 200
        before = client.call("info")["counters"]
        assert {status for status, _ in many(http, [{"model": "y", "input": rows}] * 200, clients=20)} == {404}
        assert client.call("info")["counters"]["rows_accepted"] == before["rows_accepted"]
        broker.kill9()
        status, reply = http.post("/classify", {"model": "y", "input": rows})
        assert status == 503, reply


def test_results_that_were_left_are_not_those_of_another_adapter(directory):
    """The name stands for another adapter when the request comes again, at once or once the first is known to be gone."""
    lora, body = MODELS / "lora", {"model": "x", "input": [[k, 5, 7, 9] * 100 for k in range(60)]}
    options = ["--lora", f"x={lora / 'reward-all'}", "--max-batch-tokens", 512]
    with Broker(directory / "d", model=MODELS / "reward", options=options) as broker, Http(directory, broker) as http, broker.client() as client:
        for name, is_known in (("half", True), ("all", False)):
            leave_results(http, broker, body)
            client.call("adapter_remove", name="x", timeout=60 * PATIENCE)
            if is_known:
                wait_until(lambda: "x" not in names_served(http))
            client.call("adapter_add", name="x", dir=str(lora / f"reward-{name}"), timeout=60 * PATIENCE)
            status, reply = http.post("/classify", body)
            assert status == 200 or (status == 503 and not is_known), reply  # assay-http still had the first when the request came
            found = reply["data"] if status == 200 else wait_until(lambda: (again := http.post("/classify", body))[0] == 200 and again[1]["data"])
            assert [float32(one["probs"][0]) for one in found] == [
                row["score"] for row in client.call("score", rows=[{"ids": row, "adapter": "x"} for row in body["input"]], timeout=60)["rows"]]


def test_a_request_is_not_for_another_adapter_of_the_name(directory):
    """It comes while the broker is away, which then has another adapter under the name."""
    def broker_of(adapter):
        return Broker(directory / "d", model=MODELS / "reward", options=["--lora", f"x={MODELS / 'lora' / adapter}"]).start()
    broker, body, found = broker_of("reward-half"), {"model": "x", "input": [[5, 7, 9]]}, []

    def score(reply):
        return float32(reply["data"][0]["probs"][0])
    with Http(directory, broker) as http:
        first = score(http.ok("/classify", body))
        broker.kill9()
        asking = threading.Thread(target=lambda: found.append(http.post("/classify", body)))
        asking.start()
        time.sleep(0.5)
        broker = broker_of("reward-all")
        asking.join()
        status, reply = found[0]
        assert status == 503 or score(reply) == first, found
        assert score(http.ok("/classify", body)) != first  # what the name stands for now
    broker.stop()


def test_results_that_were_left_are_not_those_of_another_checkpoint(directory):
    rows = [[k, 5, 7, 9] * 100 for k in range(16)]
    other = changed_model(directory / "other", -0.5)
    with Broker(directory / "d", model=f"m={MODEL}", options=["--max-batch-tokens", 512]) as broker, Http(directory, broker) as http, \
            broker.client() as client:
        for model in (other, MODEL):
            leave_results(http, broker, {"model": "m", "input": rows})
            assert client.call("reload", dir=str(model), timeout=100 * PATIENCE)["changed"]
            status, _, text = http.ask("POST", "/classify", json.dumps({"model": "m", "input": rows}), JSON)
            assert status in (200, 503)  # never 200 with the earlier one's
            if status == 200:
                wanted = [row["score"] for row in client.call("score", rows=[{"ids": row} for row in rows], timeout=60)["rows"]]
                assert [float32(one["probs"][0]) for one in json.loads(text)["data"]] == wanted
            time.sleep(1.2)


def test_a_request_that_takes_too_long_and_comes_again(directory):
    """504 does not throw away what is computed: at last the request finds it all."""
    rows = [[k, 5, 7, 9] * 150 for k in range(40)]
    with Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512]) as broker, Http(directory, broker, ["--timeout", 1]) as http, \
            broker.client() as client:
        status = []
        while not status or status[-1] != 200:
            status.append(http.post("/classify", {"input": rows})[0])
            assert set(status) <= {200, 504} and len(status) < 100
        assert client.call("info")["counters"]["rows_accepted"] == 40, status


def test_a_broker_that_is_started_again(directory):
    """Requests under way get their scores; meanwhile /health says so, and new ones are 503."""
    broker = Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512]).start()
    rows = [[k % 300, 5, 7, k // 300] * 100 for k in range(40)]
    with Http(directory, broker) as http:
        replies = []
        thread = threading.Thread(target=lambda: replies.append(http.post("/classify", {"input": rows})))
        thread.start()
        wait_until(lambda: counted(http, "vllm:num_requests_running") == 1)
        broker.kill9()
        wait_until(lambda: http.get("/health")[0] == 503, timeout=20)
        status, headers, text = http.ask("POST", "/classify", '{"input": "a"}', JSON)
        assert status == 503 and int(headers["retry-after"]) >= 1 and "broker" in json.loads(text)["error"]["message"]
        broker.start()
        thread.join(120 * PATIENCE)
        [(status, reply)] = replies
        assert status == 200 and len(reply["data"]) == 40
        with broker.client() as client:
            wanted = [row["score"] for row in client.call("score", rows=[{"ids": row} for row in rows], timeout=60)["rows"]]
        assert [float32(one["probs"][0]) for one in reply["data"]] == wanted
    broker.stop()


@pytest.mark.parametrize("model, options", [(MODELS / "reward", []), (MODEL, ["--dtype", "bf16"])], ids=["checkpoint", "mode"])
def test_a_broker_that_is_started_with_something_else(directory, model, options):
    """A request under way is 503, though the model's name is the same: it never gets the new scores under the old mode."""
    broker = Broker(directory / "d", model=f"alpha={MODEL}").start()
    with Http(directory, broker) as http:
        def ask():
            return http.ask("POST", "/classify", json.dumps({"model": "alpha", "input": [[5, 9, 11, 42], [7, 8]]}), JSON)

        before, replies = ask(), []
        broker.kill9()
        thread = threading.Thread(target=lambda: replies.append(ask()))
        thread.start()
        wait_until(lambda: counted(http, "vllm:num_requests_running") == 1)
        broker = Broker(directory / "d", model=f"alpha={model}", options=options).start()
        thread.join(60 * PATIENCE)
        status, headers, text = replies[0]
        assert status == 503 and int(headers["retry-after"]) >= 1 and "started anew" in json.loads(text)["error"]["message"], text
        wait_until(lambda: ask()[0] == 200)
        after = ask()
        assert json.loads(after[2])["data"] != json.loads(before[2])["data"]
    broker.stop()


def test_a_broker_that_is_stopped_in_order(directory):
    """It refuses what it has as not_ready, and has it all the same when it is there again."""
    broker = Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512]).start()
    with Http(directory, broker) as http:
        replies = []
        body = {"input": [[k % 300, 5, 7, k // 300] * 120 for k in range(60)]}
        thread = threading.Thread(target=lambda: replies.append(http.post("/classify", body)))
        thread.start()
        wait_until(lambda: counted(http, "vllm:num_requests_running") == 1)
        assert broker.stop() == 0
        broker.start()
        thread.join(120 * PATIENCE)
        assert replies[0][0] == 200 and len(replies[0][1]["data"]) == 60
        wait_until(lambda: not broker.sql("select key from jobs"))
    broker.stop()


def test_jobs_left_behind_are_purged(directory):
    """Those of a process that was killed, an hour after they were over; nobody else's."""
    stale, fresh, mine = "assay-http/0123456789abcdef-3", "assay-http/0123456789abcdef-4", ["http-0123456789abcdef-3", "http-monday", "assay-http/mine"]
    with Broker(directory / "d", model=MODEL) as broker, broker.client() as client:
        for key in (stale, fresh, *mine):
            client.submit(key, [{"ids": [5, 6]}])
            client.results(key)
    with sqlite3.connect(directory / "d/assay.db") as database:
        database.execute("update job set finished_ms = finished_ms - 4000000 where key <> ?", [fresh])
    database.close()

    def left():
        return [key for [key] in broker.sql("select key from jobs order by job")]

    broker = Broker(directory / "d", model=MODEL).start()
    with Http(directory, broker) as http:
        wait_until(lambda: left() == [fresh, *mine])
        assert http.ok("/classify", {"input": "a"})
        broker.stop()
        with sqlite3.connect(directory / "d/assay.db") as database:
            database.execute("update job set finished_ms = finished_ms - 4000000")
        database.close()
        broker.start()
        wait_until(lambda: left() == mine)  # it looks for them again
    broker.stop()


def test_a_full_queue_is_503(directory):
    """With advice when to come again; clients give up on 4xx."""
    with Broker(directory / "d", model=MODEL, options=["--max-queued-bytes", 65536]) as broker, broker.client() as client, \
            Http(directory, broker) as http:
        client.submit("held", [{"ids": [5] * 900}], seal=False)
        client.call("pause", job="held")
        client.submit("held", [{"ids": [5, k] * 450} for k in range(16)], chunk=1)
        status, headers, text = http.ask("POST", "/classify", json.dumps({"input": [[7] * 900] * 4}), JSON)
        error = json.loads(text)["error"]
        assert status == 503 and int(headers["retry-after"]) >= 1 and error["type"] == "ServiceUnavailableError", text
        assert http.get("/ready")[0] == 503 and http.get("/health")[0] == 200
        client.call("cancel", job="held")
        wait_until(lambda: http.get("/ready")[0] == 200)
        assert http.ok("/classify", {"input": "a"})


def test_requests_under_way_are_bounded_together(directory):
    """Rows that wait count as bodies do: what is too much is 503 at once, and there is room again when they are over."""
    with Broker(directory / "d", model=MODEL) as broker, Http(directory, broker, ["--max-body-bytes", 100000]) as http:
        body, replies = {"input": "a " * 45000, "truncate_prompt_tokens": 5}, []
        [os.kill(pid, signal.SIGSTOP) for pid in broker.worker_pids()]
        threads = [threading.Thread(target=lambda: replies.append(http.ask("POST", "/classify", json.dumps(body), JSON))) for _ in range(24)]
        [thread.start() for thread in threads]
        wait_until(lambda: len(replies) >= 12)
        assert {status for status, _, _ in replies} == {503} and all(int(headers["retry-after"]) >= 1 for _, headers, _ in replies)
        [os.kill(pid, signal.SIGCONT) for pid in broker.worker_pids()]
        [thread.join(60 * PATIENCE) for thread in threads]
        assert {status for status, _, _ in replies} == {200, 503}
        assert [http.post("/classify", body)[0] for _ in range(20)] == [200] * 20


def test_a_request_in_time(directory):
    """--timeout: 504, and the rows are given up."""
    with Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512]) as broker, Http(directory, broker, ["--timeout", 1]) as http:
        body = {"input": [[k % 300, 5, 7, k // 300] * 200 for k in range(2000)]}
        assert http.refused("/classify", body, 504)["type"] == "GatewayTimeoutError"
        wait_until(lambda: not broker.sql("select key from jobs"))


def test_sigterm_ends_what_is_under_way(directory):
    with Broker(directory / "d", model=MODEL) as broker, Http(directory, broker) as http:
        replies = []
        thread = threading.Thread(target=lambda: replies.append(http.post("/classify", {"input": [[k, 5] * 100 for k in range(60)]})))
        thread.start()
        wait_until(lambda: counted(http, "assay_http_jobs_total") == 1)
        assert http.stop() == 0
        thread.join(60 * PATIENCE)
        assert replies and replies[0][0] in (200, 503)


def test_keys(directory):
    keys = directory / "keys"
    keys.write_text(f"# who may ask\ntrainer {TOKEN}\n\nother another-long-enough-token\n")
    keys.chmod(0o600)
    with Broker(directory / "d", model=MODEL) as broker, Http(directory, broker, ["--api-keys", keys]) as http:
        assert http.ok("/classify", {"input": "a"}, Authorization=f"Bearer {TOKEN}")
        assert http.get("/health")[0] == 200 and http.get("/v1/models", Authorization=f"bearer {TOKEN}")[0] == 200
        for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"},
                      {"Authorization": "Basic abc"}, {"Authorization": "Bearer "}):
            status, headers, text = http.ask("POST", "/classify", '{"input": "a"}', {**JSON, **wrong})
            assert status == 401 and headers["www-authenticate"] == "Bearer", text
            assert json.loads(text)["error"]["type"] == "AuthenticationError"
        assert http.get("/metrics")[0] == 401
        assert TOKEN not in http.words()


def test_other_names_without_keys(directory):
    """A page of another name, which leads to this machine, reads nothing: no path, no method. With keys any name will do."""
    keys = directory / "keys"
    keys.write_text(f"trainer {TOKEN}\n")
    keys.chmod(0o600)
    gets = ["/", "/page.js", "/health", "/ready", "/metrics", "/version", "/v1/models", "/v1/files", "/v1/batches", "/api/overview.json", "/api/jobs.json",
            "/api/jobs/1/scores.json", "/nowhere"]
    posts = ["/classify", "/v1/batches", "/v1/files", "/api/jobs/1/cancel"]
    with Broker(directory / "d", model=MODEL) as broker:
        with Http(directory, broker, ["--files", directory / "files"]) as http:
            for method, path in [("GET", path) for path in gets] + [("POST", path) for path in posts]:
                code, _, text = http.ask(method, path, '{"input": "a"}' if method == "POST" else None, {**JSON, "Host": "evil.example:8000"})
                error = json.loads(text)["error"]
                assert code == error["code"] == 403 and error["param"] == "Host", (path, text)
                assert "found 'evil.example:8000'" in error["message"] and "--api-keys" in error["message"]
            assert http.ask("HEAD", "/health", None, {"Host": "evil.example"})[0] == 403
            for name in ("127.0.0.1", f"localhost:{http.port}", "a.localhost", "[::1]:1", "10.0.0.1"):
                assert http.get("/api/jobs.json", Host=name)[0] == 200, name
            assert b" 200 " in http.raw(b"GET /health HTTP/1.0\r\n\r\n")[:20]
        with Http(directory, broker, ["--api-keys", keys]) as http:
            assert http.get("/v1/models", Host="scores.example", Authorization=f"Bearer {TOKEN}")[0] == 200


def fails(directory, *options):
    """An assay-http that does not start: its exit code and words."""
    done = subprocess.run([BIN / "assay-http", "--data", directory, *map(str, options)], capture_output=True, text=True, timeout=20 * PATIENCE)
    return done.returncode, done.stderr


def test_what_does_not_start(directory):
    keys = directory / "keys"
    code, words = fails(directory, "--listen", "0.0.0.0:0")
    assert code == 78 and "--api-keys" in words
    assert fails(directory, "--listen", "[::]:0")[0] == 78
    keys.write_text(f"trainer {TOKEN}\n")
    keys.chmod(0o644)
    code, words = fails(directory, "--listen", "0.0.0.0:0", "--api-keys", keys)
    assert code == 78 and "chmod 600" in words
    keys.chmod(0o600)
    keys.write_text("trainer short\n")
    assert "line 1" in fails(directory, "--api-keys", keys)[1]
    for listen in ("8000", "127.0.0.1", "127.0.0.1:x", "::1:80", "127.0.0.1:70000", ":80"):
        code, words = fails(directory, "--listen", listen)
        assert code == 64 and "HOST:PORT" in words, words
    assert fails(directory, "--connect", "inproc://a")[0] == 64
    assert "control characters" in fails(directory, "--served-model-name", "a\nb 1")[1]
    assert fails(directory, "--tls-cert", keys)[0] == 64
    assert "--timeout" in fails(directory, "--timout", "3")[1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, words = fails(directory, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        assert code == 69 and "in use" in words


def test_files_that_are_pipes_do_not_hang(directory):
    """An option's file that is a pipe is refused by name: opening it would wait for ever, with signals blocked."""
    pipe, file = directory / "pipe", directory / "file"
    os.mkfifo(pipe, 0o600)
    file.write_text("a")
    for options in (["--api-keys", pipe], ["--tls-cert", pipe, "--tls-key", file], ["--tls-cert", file, "--tls-key", pipe]):
        code, words = fails(directory, "--listen", "127.0.0.1:0", *options)
        assert code == 78 and str(pipe) in words and "found a pipe" in words


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate with")
def test_tls(directory):
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
                    "-subj", "/CN=localhost", "-days", "2"], check=True, capture_output=True)
    with Broker(directory / "d", model=MODEL) as broker:
        http = Http(directory, broker, ["--tls-cert", cert, "--tls-key", key]).start(ready=False)
        context = ssl.create_default_context(cafile=cert)
        context.check_hostname = False

        def ask():
            with socket.create_connection((http.host, http.port), timeout=20 * PATIENCE) as plain, context.wrap_socket(plain) as s:
                s.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                          b"Content-Length: 14\r\n\r\n{\"input\": \"a\"}")
                reply = b""
                while more := s.recv(65536):
                    reply += more
                return reply

        assert wait_until(lambda: b" 200 " in ask()[:16])
        assert b"200" not in http.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", timeout=3)
        http.stop()
    assert "not start" in fails(directory, "--listen", "127.0.0.1:0", "--tls-cert", key, "--tls-key", key)[1]


def test_ipv6(directory):
    with Broker(directory / "d", model=MODEL) as broker:
        http = Http(directory, broker, host="::1")
        http.command[2] = "[::1]:0"
        try:
            http.start()
        except AssertionError:
            pytest.skip("no IPv6 here")
        assert http.ok("/classify", {"input": "a"})
        http.stop()


def test_metrics(directory):
    """Prometheus' text: counters and a histogram by endpoint and code, the broker's numbers, vLLM's two gauges."""
    with Broker(directory / "d", model=MODEL) as broker, Http(directory, broker, ["--served-model-name", "rm", "--served-model-name", "/models/rm"]) as http:
        http.ok("/classify", {"input": "a", "model": "/models/rm"})
        http.refused("/classify", {"input": "a", "model": "demo-reward"}, 404)
        http.get("/nowhere")
        wait_until(lambda: counted(http, 'assay_http_requests_total{endpoint="other",code="404"}') == 1)
        page = http.get("/metrics")[1]
        for line in page.splitlines():
            assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2 and float(line.rsplit(" ", 1)[1]) >= 0, line
        assert 'assay_http_requests_total{endpoint="/classify",code="200"} 1' in page
        assert 'assay_http_requests_total{endpoint="/classify",code="404"} 1' in page
        assert 'assay_http_request_seconds_bucket{endpoint="/classify",le="+Inf"} 2' in page
        assert 'vllm:num_requests_running{model_name="rm"} 0' in page and "assay_queued_bytes " in page and "assay_rows_done_total " in page
        assert [one["id"] for one in json.loads(http.get("/v1/models")[1])["data"]] == ["rm", "/models/rm"]


def test_a_long_name_in_metrics(directory):
    """It is not cut within a character."""
    name = "r" + "\u00e9" * 150
    with Broker(directory / "d", model=MODEL) as broker, Http(directory, broker, ["--served-model-name", name + '"']) as http:
        assert f'vllm:num_requests_waiting{{model_name="{name}\\""}} 0' in http.get("/metrics")[1]


def test_a_failed_row_is_never_a_zero(directory):
    """The model gives NaN, or the worker dies of a row: the request fails by name, and other requests have their scores."""
    with Broker(directory / "d", model=MODEL, worker=FAULTY_WORKER) as broker, Http(directory, broker) as http:
        replies = many(http, [{"input": [[5, 6, 20 + k]] if k else [[5, 9, 6], [5, 6]]} for k in range(12)], clients=12)
        assert [status for status, _ in replies] == [500] + [200] * 11
        error = replies[0][1]["error"]
        assert error["message"].startswith("row 0 of 2: non_finite") and error["type"] == "InternalServerError"
        assert "worker_killed" in http.refused("/classify", {"input": [[5, 7, 6]]}, 500)["message"]
