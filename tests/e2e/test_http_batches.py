"""/v1/files and /v1/batches: OpenAI's files of requests, scored durably while nobody waits; what is refused, and what dies on the way."""
import json
import os
import re
import resource
import signal
import socket
import subprocess
import time
import uuid

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, wait_until
from http_harness import Http, float32
from test_models import alone, changed_model, serve

MODEL = MODELS / "demo-reward"
JSON = {"Content-Type": "application/json"}
OVER = ("completed", "failed", "expired", "cancelled")


def form(contents, name="in.jsonl", boundary=None, **fields):
    """A multipart form as clients write it, and its headers."""
    boundary = boundary or uuid.uuid4().hex
    fields = {"purpose": "batch", **fields}
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields.items() if value is not None]
    if contents is not None:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + contents + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def lines(bodies, url="/v1/classify", **more):
    return "".join(json.dumps({"custom_id": f"r{k}", "method": "POST", "url": url, "body": body, **more}) + "\n" for k, body in enumerate(bodies)).encode()


class Batches(Http):
    """An assay-http with a folder for files."""

    def __init__(self, directory, broker, options=()):
        self.folder = directory / "files"
        super().__init__(directory, broker, ["--files", self.folder, *options])

    def kill9(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def upload(self, contents, status=200, **fields):
        body, headers = form(contents, **fields)
        found, _, text = self.ask("POST", "/v1/files", body, headers)
        assert found == status, text
        return json.loads(text)

    def begin(self, contents, url="/v1/classify", **fields):
        file = self.upload(contents)
        return self.ok("/v1/batches", {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h", **fields})

    def batch(self, of):
        status, text = self.get(f"/v1/batches/{of['id']}")
        assert status == 200, text
        return json.loads(text)

    def wait(self, of, timeout=60, over=OVER):
        return wait_until(lambda: (b := self.batch(of))["status"] in over and b, timeout)

    def content(self, file):
        status, text = self.get(f"/v1/files/{file}/content")
        assert status == 200, text
        return text

    def lines_of(self, file):
        return {line["custom_id"]: line for line in map(json.loads, self.content(file).splitlines())} if file else {}

    def output(self, batch):
        return self.lines_of(batch["output_file_id"]), self.lines_of(batch["error_file_id"])


@pytest.fixture
def broker(directory):
    with Broker(directory / "d", model=MODEL) as running:
        yield running


@pytest.fixture
def http(directory, broker):
    with Batches(directory, broker) as running:
        yield running


def score_of(line):
    assert line["error"] is None and line["response"]["status_code"] == 200, line
    return float32(line["response"]["body"]["data"][0]["probs"][0])


def test_files(http):
    """Upload, get, list, content and delete, byte for byte; two uploads are two files."""
    contents = lines([{"input": "a"}])
    file = http.upload(contents)
    assert file["object"] == "file" and file["bytes"] == len(contents) and file["filename"] == "in.jsonl" and file["purpose"] == "batch"
    assert json.loads(http.get(f"/v1/files/{file['id']}")[1]) == file and http.content(file["id"]).encode() == contents
    other = http.upload(b"any bytes", name="b.jsonl")
    page = json.loads(http.get("/v1/files")[1])
    assert {one["id"] for one in page["data"]} == {file["id"], other["id"]} and page["has_more"] is False
    first = json.loads(http.get("/v1/files?limit=1&order=asc")[1])
    assert len(first["data"]) == 1 and first["has_more"] is True
    rest = json.loads(http.get(f"/v1/files?limit=5&order=asc&after={first['last_id']}")[1])
    assert {first["data"][0]["id"], rest["data"][0]["id"]} == {file["id"], other["id"]} and rest["has_more"] is False
    assert json.loads(http.get("/v1/files?purpose=batch_output")[1])["data"] == []
    status, _, text = http.ask("DELETE", f"/v1/files/{file['id']}")
    assert status == 200 and json.loads(text) == {"id": file["id"], "object": "file", "deleted": True}
    assert http.get(f"/v1/files/{file['id']}")[0] == http.get(f"/v1/files/{file['id']}/content")[0] == 404
    assert sorted(path.name for path in http.folder.iterdir()) == sorted(["lock", other["id"], f"{other['id']}.json"])
    assert http.folder.stat().st_mode & 0o777 == 0o700 and all(path.stat().st_mode & 0o777 == 0o600 for path in http.folder.iterdir())


def test_a_large_file_in_chunks(http):
    """Bytes of every kind come as they were, also where the client does not say how many; lines that look like boundaries too."""
    contents = os.urandom(3 << 20) + b"\r\n--bound\r\n--boundary\r\n" + bytes(range(256)) * 50
    file = http.upload(contents)
    connection = http.connect()
    connection.request("GET", f"/v1/files/{file['id']}/content")
    assert connection.getresponse().read() == contents
    body, headers = form(contents)
    pieces = (body[at:at + 70001] for at in range(0, len(body), 70001))
    connection.request("POST", "/v1/files", pieces, headers, encode_chunked=False)
    reply = connection.getresponse()
    assert reply.status == 200 and json.loads(reply.read())["bytes"] == len(contents)
    connection.close()


def test_a_batch(http, broker):
    """Each line's scores are the socket's; ids, counts and times are OpenAI's; the job is gone from the broker, the files stay."""
    texts = [f"{i} + {i + 3} = {2 * i + 3 + i % 2}" for i in range(250)]
    bodies = [{"input": texts[i]} if i % 5 else {"model": "demo-reward", "input": texts[i:i + 3], "use_activation": False} for i in range(len(texts))]
    batch = http.begin(b"\xef\xbb\xbf" + lines(bodies) + b"\n \r\n", metadata={"who": "me"})  # a mark, and blank lines, are none
    assert batch["object"] == "batch" and batch["status"] == "validating" and batch["expires_at"] == batch["created_at"] + 86400
    assert set(batch) == {"id", "object", "endpoint", "errors", "input_file_id", "completion_window", "status", "output_file_id", "error_file_id",
                          "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
                          "cancelled_at", "request_counts", "metadata"}
    done = http.wait(batch)
    assert done["status"] == "completed" and done["request_counts"] == {"total": 250, "completed": 250, "failed": 0} and done["errors"] is None
    assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"] and done["metadata"] == {"who": "me"}
    assert done["error_file_id"] is None
    answers, _ = http.output(done)
    with broker.client() as client:
        wanted = [row["score"] for row in client.call("score", rows=[{"text": text} for text in texts])["rows"]]
    assert set(answers) == {f"r{i}" for i in range(250)} and len({one["id"] for one in answers.values()}) == 250
    for i in range(250):
        data = answers[f"r{i}"]["response"]["body"]["data"]
        assert [float32(one["probs"][0]) for one in data] == wanted[i:i + len(data)] and len(data) == (1 if i % 5 else len(texts[i:i + 3]))
    wait_until(lambda: not broker.sql("select key from jobs where key like 'assay-batch/%'"))
    assert json.loads(http.get(f"/v1/files/{done['output_file_id']}")[1])["purpose"] == "batch_output"
    page = json.loads(http.get("/v1/batches?limit=1")[1])
    assert [one["id"] for one in page["data"]] == [batch["id"]]


def test_every_endpoint(directory):
    """Each endpoint's lines have the bodies that the same requests get one by one."""
    with Broker(directory / "d", model=MODELS / "recipe-qwen3", options=["--recipe", "qwen3-reranker"]) as broker, Batches(directory, broker) as http:
        asked = {"/v1/score": {"text_1": "what", "text_2": ["a b", "c"]}, "/v1/rerank": {"query": "what", "documents": ["a b", "c", "d e"], "top_n": 2},
                 "/v1/classify": {"input": ["a", "b"]}, "/v1/embeddings": {"input": "a", "encoding_format": "base64"}, "/v1/pooling": {"input": [[5, 9, 11]], "pooling_type": "LAST"}}
        batches = {url: http.begin(lines([body], url), url) for url, body in asked.items()}
        for url, batch in batches.items():
            answers, errors = http.output(http.wait(batch))
            assert not errors, errors
            found, wanted = answers["r0"]["response"]["body"], http.ok(url, asked[url])
            assert found.pop("id") != wanted.pop("id")
            found.pop("created", None), wanted.pop("created", None)
            assert found == wanted


def test_lines_that_fail(http):
    """A body that is refused and a row that fails are lines of the error file, with the errors that they get one by one."""
    bodies = [{"input": "a"}, {"input": "a", "dimensions": 3}, {"input": [[1, 2], [1, 10**6]]}, {"input": ""}, {"input": [[1] * 2000]}, {"nothing": 1}, {"input": "b"}]
    done = http.wait(http.begin(lines(bodies)))
    answers, errors = http.output(done)
    assert done["status"] == "completed" and done["request_counts"] == {"total": 7, "completed": 2, "failed": 5}
    assert set(answers) == {"r0", "r6"} and set(errors) == {"r1", "r2", "r3", "r4", "r5"}
    for k in range(1, 6):
        line = errors[f"r{k}"]
        assert line["error"] is None and line["response"]["status_code"] == 400
        assert line["response"]["body"]["error"] == http.refused("/classify", bodies[k])
    nothing = http.wait(http.begin(lines([{"a": 1}, {"b": 2}])))
    assert nothing["status"] == "completed" and nothing["output_file_id"] is None and len(http.output(nothing)[1]) == 2


GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/classify", "body": {"input": "a"}}


@pytest.mark.parametrize("contents, code, line, param", [
    (b"", "empty_file", None, None),
    (b"\n", "empty_file", None, None),
    (b"{\n", "invalid_json_line", 1, None),
    (json.dumps(GOOD).encode() + b"\n[1]\n", "invalid_json_line", 2, None),
    (json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode(), "duplicate_custom_id", 2, "custom_id"),
    (json.dumps({**GOOD, "url": "/v1/chat/completions"}).encode(), "invalid_url", 1, "url"),
    (json.dumps({**GOOD, "url": "/v1/score"}).encode(), "invalid_url", 1, "url"),
    (json.dumps({**GOOD, "method": "GET"}).encode(), "invalid_method", 1, "method"),
    (json.dumps({**GOOD, "custom_id": 7}).encode(), "missing_required_parameter", 1, "custom_id"),
    (json.dumps({**GOOD, "body": "a"}).encode(), "missing_required_parameter", 1, "body"),
    (json.dumps({**GOOD, "id": "a"}).encode(), "unknown_parameter", 1, "id"),
    (json.dumps({**GOOD, "body": {"input": "a", "model": "gpt-4"}}).encode(), "model_not_found", 1, "model"),
    (b'{"custom_id": "a", "custom_id": "b"}', "invalid_json_line", 1, None),
    (b"\xff\xfe\n", "invalid_json_line", 1, None),
    (b"\n \r\n{}x\n", "invalid_json_line", 3, None),
    (b" \n\n", "empty_file", None, None),
])
def test_input_that_is_wrong_fails_the_batch(directory, contents, code, line, param):
    """As OpenAI's do: failed, with the line and what is wrong with it, and nothing is scored."""
    with Broker(directory / "d", model=MODEL) as broker, Batches(directory, broker) as http:
        batch = http.begin(contents)
        done = http.wait(batch)
        assert done["status"] == "failed" and done["failed_at"] and done["output_file_id"] is None
        [error] = done["errors"]["data"]
        assert error["code"] == code and error["line"] == line and error["message"] and error["param"] == param
        assert not broker.sql("select key from jobs where key like 'assay-batch/%'")


def test_an_input_that_cannot_be_read(http):
    """A disk that fails for long ends the batch, with the reason."""
    file = http.upload(lines([{"input": "a"}]))["id"]
    (http.folder / file).unlink()
    (http.folder / file).mkdir()
    batch = http.ok("/v1/batches", {"input_file_id": file, "endpoint": "/v1/classify", "completion_window": "24h"})
    done = http.wait(batch)
    [error] = done["errors"]["data"]
    assert done["status"] == "failed" and error["code"] == "invalid_input_file" and "regular file" in error["message"]
    (http.folder / file).rmdir()


def test_all_lines_are_for_one_model(directory, tmp_path):
    models = {"a": MODEL, "b": changed_model(tmp_path / "b", -0.5)}
    expected = alone(tmp_path / "alone", models, "b", [{"text": "x"}])
    with serve(directory, models, "ab") as broker, Batches(directory, broker) as http:
        done = http.wait(http.begin(lines([{"input": "x", "model": "b"}, {"input": "y", "model": "b"}])))
        assert score_of(http.output(done)[0]["r0"]) == expected[0] and http.output(done)[0]["r0"]["response"]["body"]["model"] == "b"
        done = http.wait(http.begin(lines([{"input": "x"}, {"input": "x", "model": "b"}])))
        assert done["status"] == "failed" and done["errors"]["data"][0]["code"] == "mismatched_model" and done["errors"]["data"][0]["line"] == 2


def test_without_the_option(directory, broker):
    with Http(directory, broker) as http:
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/batches"), ("GET", "/v1/files/file-1/content")):
            status, _, text = http.ask(method, path, "{}" if method == "POST" else None, JSON)
            assert status == 501 and "--files" in json.loads(text)["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/files/..%2F..%2Fetc%2Fpasswd", "/v1/files/file-..", "/v1/files/lock", "/v1/files/file-" + "a" * 33,
                                  "/v1/files/file-" + "A" * 32, "/v1/files/file-" + "0" * 32 + ".json", "/v1/files/" + "x" * 3000, "/v1/files/../lock",
                                  "/v1/files//content", "/v1/batches/batch_../cancel", "/v1/batches/batch_" + "0" * 32, "/v1/files/file-" + "0" * 32 + "%00"])
def test_ids_that_are_none(http, path):
    """Nothing but an id of 32 digits is ever looked for."""
    for method in ("GET", "DELETE"):
        status, _, text = http.ask(method, path)
        assert status in (404, 405), (status, text)
    assert http.get(path + "/content")[0] == 404


def test_uploads_that_are_refused(http):
    def refused(contents=b"x", status=400, **fields):
        reply = http.upload(contents, status, **fields)["error"]
        assert reply["message"]
        return reply["param"]

    for name in ("../../etc/passwd", "a/b", "..", "a\\b", "x" * 300, "a\tb"):
        assert refused(name=name) == "file"
    assert refused(purpose="fine-tune") == "purpose" and refused(purpose=None) == "purpose" and refused(contents=None) == "file"
    assert refused(other="1") == "other"
    assert refused(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "10"}) == "expires_after"
    body, headers = form(b"x" * 100)
    for cut in (body[:-4], body[:60], b"", body.replace(b"--", b"++")):
        status, _, text = http.ask("POST", "/v1/files", cut, headers)
        assert status == 400, (cut, text)
    assert http.ask("POST", "/v1/files", body, JSON)[0] == 415
    assert http.ask("POST", "/v1/files", body, {"Content-Type": "multipart/form-data"})[0] in (400, 415)
    assert http.ask("PUT", "/v1/files", body, headers)[0] == 405
    assert sorted(path.name for path in http.folder.iterdir()) == ["lock"]
    kept = http.upload(b"x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    assert kept["expires_at"] == kept["created_at"] + 3600


def test_forms_as_clients_write_them(http):
    """The boundary in any case, in quotes, with another parameter behind it; bytes in front of the parts and behind them, but not without end."""
    contents = lines([{"input": "a"}])
    body, headers = form(contents, boundary="b-1")
    for kind in ("multipart/form-data; Boundary=b-1", 'multipart/form-data; boundary="b-1"; charset=utf-8', "multipart/form-data; charset=utf-8; boundary=b-1 ; x=y"):
        status, _, text = http.ask("POST", "/v1/files", b"preamble\r\n" + body + b"epilogue\r\n--b-1\r\n", {"Content-Type": kind})
        assert status == 200 and json.loads(text)["bytes"] == len(contents), (kind, text)
    assert http.content(json.loads(text)["id"]).encode() == contents
    empty = http.upload(b"")
    assert empty["bytes"] == 0 and http.content(empty["id"]) == ""
    for where in (lambda more: more + body, lambda more: body + more):  # it is told soon, and not after all of it was read
        status, _, text = http.ask("POST", "/v1/files", where(b"x" * 100000 + b"\r\n"), headers)
        assert status == 400 and "in front of the first part" in text, text
    with socket.create_connection((http.host, http.port), timeout=30 * PATIENCE) as s:
        s.sendall(f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {headers['Content-Type']}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        with pytest.raises(OSError):
            while sent < 200 << 20:
                s.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
    assert sent < 64 << 20


def test_an_upload_in_two_pieces(http):
    """Wherever TCP cuts it: the parser may be told of the file's part before its first byte."""
    body, headers = form(lines([{"input": "a"}]))
    start = body.index(b'{"custom_id"')
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items()).encode()
    for cut in range(start - 6, start + 7):
        with socket.create_connection(("127.0.0.1", http.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body[:cut]))
            time.sleep(0.05)
            connection.sendall(body[cut:])
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
        assert reply.startswith(b"HTTP/1.1 200"), (cut - start, reply)
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["bytes"] == len(lines([{"input": "a"}]))


def test_batches_that_are_refused(http):
    file = http.upload(lines([{"input": "a"}]))["id"]
    good = {"input_file_id": file, "endpoint": "/v1/classify", "completion_window": "24h"}
    for field, value in (("endpoint", "/v1/chat/completions"), ("completion_window", "tomorrow"), ("completion_window", "31d"), ("completion_window", "0h"),
                         ("input_file_id", "file-" + "0" * 32), ("input_file_id", "../lock"), ("metadata", {"a": 1}), ("metadata", {"a": "b\0c"}), ("metadata", {str(k): "" for k in range(17)}),
                         ("output_expires_after", {"anchor": "created_at", "seconds": 1}), ("endpoint", None)):
        found, reply = http.post("/v1/batches", {**good, field: value})
        assert found in (400, 404) and reply["error"]["message"], (field, reply)
    assert http.refused("/v1/batches", {**good, "model": "a"})["param"] == "model"
    assert http.get("/v1/batches?limit=0")[0] == http.get("/v1/batches?limit=1e3")[0] == http.get("/v1/batches?after=nothing")[0] == 400
    assert http.get("/v1/batches?colour=1")[0] == 400
    done = http.wait(http.ok("/v1/batches", good))
    status, reply = http.post(f"/v1/batches/{done['id']}/cancel", {})
    assert status == 400 and "no body" in reply["error"]["message"]
    status, _, text = http.ask("POST", f"/v1/batches/{done['id']}/cancel")
    assert status == 409 and "completed" in text
    output = http.refused("/v1/batches", {**good, "input_file_id": done["output_file_id"]})
    assert output["param"] == "input_file_id"


def test_a_huge_upload(directory, broker):
    """Beyond --max-file-bytes: refused by its length at once, or as soon as it is known; nothing of it stays."""
    with Batches(directory, broker, ["--max-file-bytes", 100000]) as http:
        body, headers = form(b"x" * 200000)
        assert http.ask("POST", "/v1/files", body, headers)[0] == 413
        connection = http.connect()
        connection.request("POST", "/v1/files", iter([body[:90000], body[90000:]]), headers)
        assert connection.getresponse().status == 413
        connection.close()
        http.upload(b"x" * 100000)
        with socket.create_connection((http.host, http.port)) as s:
            s.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n")
            s.sendall(b'80\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n')
        wait_until(lambda: not list(http.folder.glob("temporary-*")))
        assert len(list(http.folder.glob("file-*"))) == 2


def test_a_client_that_leaves_its_upload(http):
    body, headers = form(b"x" * 500000)
    with socket.create_connection((http.host, http.port)) as s:
        s.sendall(f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {headers['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:300000])
        wait_until(lambda: list(http.folder.glob("temporary-*")))
    wait_until(lambda: [path.name for path in http.folder.iterdir()] == ["lock"])


def fails(directory, *options):
    done = subprocess.run([BIN / "assay-http", "--listen", "127.0.0.1:0", "--data", directory / "d", *map(str, options)], capture_output=True, text=True,
                          timeout=20 * PATIENCE)
    assert done.returncode not in (0, -11), done
    return done.returncode, done.stderr


def test_folders_that_are_refused(directory, http):
    """Another server's, a link, one that others may enter, a file, one whose parent is not there."""
    assert "in use by another assay-http" in fails(directory, "--files", http.folder)[1]
    (directory / "link").symlink_to(http.folder)
    assert "no link" in fails(directory, "--files", directory / "link")[1]
    (directory / "open").mkdir(mode=0o755)
    code, words = fails(directory, "--files", directory / "open")
    assert code == 78 and "chmod 700" in words
    (directory / "plain").write_text("a")
    assert fails(directory, "--files", directory / "plain")[0] == 78
    assert fails(directory, "--files", directory / "no/where")[0] == 78


def test_a_disk_that_is_full(directory, broker):
    """Writing fails: the upload is 507 and nothing of it stays; a batch waits, and ends when there is room."""
    http = Batches(directory, broker)
    http.start()
    small = http.upload(lines([{"input": f"a {k}"} for k in range(300)]))
    limit = 8000
    resource.prlimit(http.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    body, headers = form(b"x" * 100000)
    status, _, text = http.ask("POST", "/v1/files", body, headers)
    assert status == 507 and json.loads(text)["error"]["type"] == "InsufficientStorageError"
    wait_until(lambda: not list(http.folder.glob("temporary-*")))
    batch = http.ok("/v1/batches", {"input_file_id": small["id"], "endpoint": "/v1/classify", "completion_window": "24h"})
    wait_until(lambda: "event=batch_waits" in http.words())
    assert http.batch(batch)["status"] in ("in_progress", "finalizing")
    resource.prlimit(http.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    done = http.wait(batch, 60)
    assert done["status"] == "completed" and len(http.output(done)[0]) == 300
    assert http.stop() == 0


def test_cancel(directory):
    """What was scored is in the output, all else in the error file; a file that is read cannot be deleted until then."""
    with Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512, "--threads", 1]) as broker, Batches(directory, broker) as http:
        bodies = [{"input": [[k % 300, 5, 7, k // 300] * 100]} for k in range(1500)]
        batch = http.begin(lines(bodies))
        wait_until(lambda: http.batch(batch)["request_counts"]["completed"] > 0)
        status, _, text = http.ask("DELETE", f"/v1/files/{batch['input_file_id']}")
        assert status == 409 and "batch" in text
        status, _, text = http.ask("POST", f"/v1/batches/{batch['id']}/cancel")
        assert status == 200 and json.loads(text)["status"] == "cancelling" and json.loads(text)["cancelling_at"]
        done = http.wait(batch)
        answers, errors = http.output(done)
        assert done["status"] == "cancelled" and done["cancelled_at"] and 0 < len(answers) < 1500 and len(answers) + len(errors) == 1500
        assert done["request_counts"] == {"total": 1500, "completed": len(answers), "failed": len(errors)}
        assert all(line["response"] is None and line["error"]["code"] == "batch_cancelled" for line in errors.values())
        wait_until(lambda: not broker.sql("select key from jobs where key like 'assay-batch/%'"))
        assert http.ask("DELETE", f"/v1/files/{batch['input_file_id']}")[0] == 200


def test_a_window_that_ends(directory):
    """What was scored by then is in the output; a batch whose lines are still being read has no files."""
    with Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512, "--threads", 1]) as broker, Batches(directory, broker) as http:
        bodies = [{"input": [[k % 300, 5, 7, k // 300] * 100]} for k in range(4000)]
        done = http.wait(http.begin(lines(bodies), completion_window="2s"))
        answers, errors = http.output(done)
        assert done["status"] == "expired" and done["expired_at"] >= done["expires_at"]
        assert len(answers) + len(errors) == (4000 if done["in_progress_at"] else 0)
        assert {line["error"]["code"] for line in errors.values()} <= {"batch_expired"}
        assert done["request_counts"]["completed"] == len(answers) < 4000


def test_a_window_that_ends_while_nobody_looks(directory):
    """A job that is cancelled by then, as the batch itself does at the window's end, makes it expired, not cancelled."""
    with Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512, "--threads", 1]) as broker, broker.client() as client:
        http = Batches(directory, broker)
        http.start()
        batch = http.begin(lines([{"input": [[k, 5, 7] * 130]} for k in range(300)] * 10), completion_window="4s")
        wait_until(lambda: http.batch(batch)["request_counts"]["completed"] > 0)
        wait_until(lambda: broker.sql("select count(*) from rows") == [(3000,)])  # its results are more than one page
        http.kill9()
        [(key,)] = broker.sql("select key from jobs where key like 'assay-batch/%'")
        client.call("cancel", job=key)
        wait_until(lambda: time.time() > batch["expires_at"] + 1)
        http.start()
        done = http.wait(batch)
        answers, errors = http.output(done)
        assert done["status"] == "expired" and len(answers) + len(errors) == 3000 and len(answers) > 0
        http.stop()


def test_a_queue_that_is_full(directory):
    """Chunks fit into the queue, and wait for room in it; a line that never fits fails the batch by name."""
    with Broker(directory / "d", model=MODEL, options=["--max-queued-bytes", 65536]) as broker, Batches(directory, broker) as http:
        done = http.wait(http.begin(lines([{"input": [[k % 300, 5, 7, k // 300] * 30]} for k in range(600)])), 90)
        assert done["status"] == "completed" and done["request_counts"] == {"total": 600, "completed": 600, "failed": 0}
        done = http.wait(http.begin(lines([{"input": [[5, 6] * 250] * 60}])))
        assert done["status"] == "failed" and done["errors"]["data"][0]["code"] == "too_large"
        wait_until(lambda: not broker.sql("select key from jobs"))


def test_kills(directory, tmp_path):
    """assay-http and assayd are killed again and again, apart and together: every line once, with the scores of a run in peace."""
    bodies = [{"input": [[3 + (i * 31 + k) % 90 for k in range(80 + i % 50)]] * (1 + (i % 7 == 0))} if i % 11 else {"input": "a", "dimensions": 1} for i in range(3000)]
    good = [body for body in bodies if "dimensions" not in body]
    rows = [{"ids": body["input"][0]} for body in good]
    options = ["--max-batch-tokens", 1024, "--threads", 1]
    expected = alone(tmp_path, {"m": MODEL}, "m", rows)
    broker = Broker(directory / "d", model=MODEL, options=options).start()
    http = Batches(directory, broker)
    http.start()
    batch = http.begin(lines(bodies))
    under_way = 0

    def status():
        return json.loads((http.folder / f"{batch['id']}.json").read_text())["batch"]["status"]

    for turn in range(12):
        wait_until(lambda: status() != "validating")
        time.sleep(0.15 * (turn % 4 + 1))
        under_way += status() in ("in_progress", "finalizing")
        if turn % 3 != 1:
            http.kill9()
        if turn % 3 != 0:
            broker.kill9()
            broker.start(wait=False)
        if turn % 3 != 1:
            http.start(ready=False)
    done = http.wait(batch, 120)
    answers, errors = http.output(done)
    assert under_way >= 4
    assert done["status"] == "completed" and done["request_counts"] == {"total": 3000, "completed": len(good), "failed": 3000 - len(good)}
    assert len(http.content(done["output_file_id"]).splitlines()) == len(answers) == len(good) and len(errors) == 3000 - len(good)
    scores = dict(zip((f"r{i}" for i, body in enumerate(bodies) if "dimensions" not in body), expected))
    assert {name: score_of(line) for name, line in answers.items()} == scores
    wait_until(lambda: not broker.sql("select key from jobs where key like 'assay-batch/%'"))
    assert not list(http.folder.glob("temporary-*"))
    http.stop()
    assert broker.stop() == 0


def test_a_start_after_a_crash_in_the_middle(directory, broker):
    """What an upload, an end and a deletion leave behind when they are cut is removed or not shown; a record that is none is passed over."""
    http = Batches(directory, broker)
    http.start()
    done = http.wait(http.begin(lines([{"input": "a"}])))
    kept = http.upload(b"kept")
    http.kill9()
    (http.folder / ("temporary-" + "1" * 32)).write_text("half")
    (http.folder / ("file-" + "2" * 32)).write_text("without a record")
    (http.folder / ("file-" + "3" * 32 + ".json")).write_text('{"id": "file-%s"}' % ("3" * 32))  # without contents
    (http.folder / ("batch_" + "4" * 32 + ".json")).write_text("{")
    (http.folder / "notes.txt").write_text("somebody's own")
    http.start()
    assert {one["id"] for one in json.loads(http.get("/v1/files")[1])["data"]} == {done["input_file_id"], done["output_file_id"], kept["id"]}
    assert [one["id"] for one in json.loads(http.get("/v1/batches")[1])["data"]] == [done["id"]]
    names = {path.name for path in http.folder.iterdir()}
    assert "notes.txt" in names and not any(name.startswith(("temporary-", "file-" + "2" * 32)) for name in names)
    assert http.batch(done) == done and score_of(http.output(done)[0]["r0"])
    http.stop()


def test_a_broker_with_other_data(directory):
    """A broker that does not know the job, since its data are new, gets all of it again."""
    broker = Broker(directory / "d", model=MODEL, options=["--max-batch-tokens", 512, "--threads", 1]).start()
    bodies = [{"input": [[k % 300, 5, 7, k // 300] * 60]} for k in range(200)]
    http = Batches(directory, broker)
    http.start()
    batch = http.begin(lines(bodies))
    wait_until(lambda: http.batch(batch)["request_counts"]["completed"] > 0)
    broker.kill9()
    for path in (directory / "d").glob("assay.db*"):
        path.unlink()
    for path in (directory / "d").iterdir():
        if path.is_file() and path.name not in ("assayd.log",):
            path.unlink()
    broker.start()
    done = http.wait(batch, 90)
    assert done["status"] == "completed" and len(http.output(done)[0]) == 200
    http.stop()
    broker.stop()


def test_a_broker_with_another_checkpoint(directory, tmp_path):
    """The batch waits and says why; when its checkpoint is back it goes on, with that one's scores alone."""
    bodies = [{"input": [[k % 90, 5, 7, k // 90] * 60]} for k in range(200)]
    expected = alone(tmp_path / "alone", {"m": MODEL}, "m", [{"ids": body["input"][0]} for body in bodies])
    other = changed_model(tmp_path / "other", -0.5)
    options = ["--max-batch-tokens", 512, "--threads", 1]
    broker = Broker(directory / "d", model=f"m={MODEL}", options=options).start()
    http = Batches(directory, broker)
    http.start()
    batch = http.begin(lines(bodies))
    wait_until(lambda: http.batch(batch)["request_counts"]["completed"] > 0)
    for restarts in (True, False):  # with and without what assay-http remembers
        broker.kill9()
        if restarts:
            http.kill9()
        broker = Broker(directory / "d", model=f"m={other}", options=options).start()
        if restarts:
            http.start()
        held = wait_until(lambda: (b := http.batch(batch))["errors"] and b)
        assert held["status"] == "in_progress" and held["errors"]["data"][0]["code"] == "held"
        time.sleep(0.5)
        broker.kill9()
        broker = Broker(directory / "d", model=f"m={MODEL}", options=options).start()
    done = http.wait(batch, 90)
    answers, errors = http.output(done)
    assert done["status"] == "completed" and done["errors"] is None and not errors
    assert [score_of(answers[f"r{k}"]) for k in range(200)] == expected
    http.stop()
    broker.stop()


KEYS = {"trainer": "trainer-0123456789", "grafana": "grafana-0123456789", "ops": "ops-0123456789abc"}


def bearer(name):
    return {"Authorization": f"Bearer {KEYS[name]}"}


def test_files_and_batches_are_their_makers(directory, broker):
    """Another key's are as if they were not there, in every way to ask for them, also after a start; an admin's key sees all."""
    plain = Batches(directory, broker)
    with plain:
        old = plain.upload(lines([{"input": "before there were keys"}]))["id"]
    keys = directory / "keys"
    keys.write_text("".join(f"{name} {token}{' admin' if name == 'ops' else ''}\n" for name, token in KEYS.items()) + f"trainer {'second-' * 3}\n")
    keys.chmod(0o600)
    http = Batches(directory, broker, ["--api-keys", keys])

    def ask(name, method, path, body=None):
        status, _, text = http.ask(method, path, body and json.dumps(body), {**bearer(name), **(JSON if body else {})})
        return status, text if path.endswith("/content") else json.loads(text)

    def ids(name, what):
        return {one["id"] for one in ask(name, "GET", f"/v1/{what}")[1]["data"]}

    with http:
        body, headers = form(lines([{"input": f"text {k}"} for k in range(3)] + [{"wrong": 1}]))
        status, _, text = http.ask("POST", "/v1/files", body, {**headers, **bearer("trainer")})
        assert status == 200 and "owner" not in text
        file = json.loads(text)["id"]
        wanted = {"input_file_id": file, "endpoint": "/v1/classify", "completion_window": "24h"}
        none = "file-" + 32 * "0"
        status, reply = ask("grafana", "POST", "/v1/batches", {**wanted, "input_file_id": none})
        assert (status, json.loads(json.dumps(reply).replace(none, file))) == ask("grafana", "POST", "/v1/batches", wanted) and status == 400
        status, batch = ask("trainer", "POST", "/v1/batches", wanted)
        assert status == 200 and "owner" not in json.dumps(batch)
        done = wait_until(lambda: (b := ask("trainer", "GET", f"/v1/batches/{batch['id']}")[1])["status"] in OVER and b)
        files = {file, done["output_file_id"], done["error_file_id"]}
        assert done["status"] == "completed" and None not in files
    with http:
        for one in files:
            missing = ask("grafana", "GET", "/v1/files/file-" + 32 * "0")[1]["error"]["message"].replace("file-" + 32 * "0", one)
            for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
                status, reply = ask("grafana", method, f"/v1/files/{one}{path}")
                assert status == 404 and missing in (reply if isinstance(reply, str) else reply["error"]["message"]), reply
        for method, path in (("GET", ""), ("POST", "/cancel")):
            assert ask("grafana", method, f"/v1/batches/{batch['id']}{path}")[0] == 404
        assert ids("grafana", "files") == ids("grafana", "batches") == set()
        assert ask("grafana", "GET", f"/v1/files?after={file}")[0] == 400
        assert ids("trainer", "files") == files and ids("trainer", "batches") == {batch["id"]}
        assert ids("ops", "files") == files | {old} and ids("ops", "batches") == {batch["id"]}
        assert ask("trainer", "GET", f"/v1/files/{old}")[0] == 404 and ask("ops", "GET", f"/v1/files/{old}")[0] == 200
        status, _, text = http.ask("GET", f"/v1/files/{done['output_file_id']}/content", None, {"Authorization": "Bearer " + "second-" * 3})
        assert status == 200 and len(text.splitlines()) == 3
        assert ask("ops", "DELETE", f"/v1/files/{old}")[0] == ask("trainer", "DELETE", f"/v1/files/{file}")[0] == 200
    with plain:
        assert {one["id"] for one in json.loads(plain.get("/v1/files")[1])["data"]} == files - {file}


def test_an_adapter_that_changes_as_a_batch_begins(directory):
    """Its lines are read again, so that all are of the adapter that has the name now; or it waits, or fails since there is none."""
    adapters = MODELS / "lora"
    with Broker(directory / "d", model=MODELS / "reward", options=["--lora", f"x={adapters / 'reward-half'}"]) as broker, broker.client() as client:
        http = Batches(directory, broker)
        http.start()
        body, seen = {"model": "x", "input": [[5, 7, 9]]}, set()
        for name in ("reward-all", "reward-half", "reward-all"):
            batch = http.begin(lines([body] * 1500))
            client.call("adapter_remove", name="x", timeout=60 * PATIENCE)
            client.call("adapter_add", name="x", dir=str(adapters / name), timeout=60 * PATIENCE)
            done = wait_until(lambda: (b := http.batch(batch)) and (b["status"] == "completed" or b["errors"]) and b, 60)
            if done["errors"]:  # read while there was none; or begun with the earlier one, which it waits for
                assert done["errors"]["data"][0]["code"] == ("model_not_found" if done["status"] == "failed" else "held")
                http.post(f"/v1/batches/{batch['id']}/cancel", {})
                continue
            answers, errors = http.output(done)
            found = {score_of(line) for line in answers.values()}
            assert len(found) == 1 and len(answers) == 1500 and not errors
            seen |= found
        assert len(seen) <= 2
        http.stop()


def test_a_batch_for_an_adapter_that_was_just_added(directory):
    """Its lines are read under what the broker has by then."""
    with Broker(directory / "d", model=MODELS / "reward") as broker, broker.client() as client:
        http = Batches(directory, broker)
        http.start()
        for k in range(5):
            client.call("adapter_add", name=f"x{k}", dir=str(MODELS / "lora" / "reward-half"), timeout=60 * PATIENCE)
            batch = http.begin(lines([{"model": f"x{k}", "input": [[5, 7, 9]]}]))
            done = wait_until(lambda: (b := http.batch(batch)) and b["status"] in OVER and b, 60)
            assert done["status"] == "completed", done
        http.stop()


def test_documented_example(tmp_path):
    """The README's lines as printed, but for the port."""
    example = next(text for text in re.findall(r"```sh\n(.*?)```", (ROOT / "broker/http/README.md").read_text(), re.S) if "/v1/batches" in text)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    example = example.replace("build/cpu/bin", str(BIN)).replace("tests/models", str(MODELS)).replace(":8000", f":{port}")
    run = subprocess.run(["bash", "-c", f"trap 'kill $(jobs -p)' EXIT; {example}"], cwd=tmp_path, capture_output=True, text=True, timeout=60 * PATIENCE)
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"id"')]
    assert run.returncode == 0 and {one["custom_id"] for one in answers} == {"a", "b"}, run
    assert score_of(answers[0]) != score_of(answers[1])


def test_openais_package(http):
    """The package from PyPI, unchanged: files and batches from upload to deletion."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{http.port}/v1", api_key="none", max_retries=0)
    path = http.folder.parent / "requests.jsonl"
    path.write_bytes(lines([{"input": f"text {k}"} for k in range(20)], "/v1/embeddings"))
    with open(path, "rb") as stream:
        file = client.files.create(file=stream, purpose="batch")
    assert file.filename == "requests.jsonl" and client.files.retrieve(file.id).bytes == path.stat().st_size
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"a": "b"})
    batch = wait_until(lambda: (b := client.batches.retrieve(batch.id)).status in OVER and b)
    assert batch.status == "completed" and batch.request_counts.completed == 20
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    wanted = client.embeddings.create(model="demo-reward", input="text 7").data[0].embedding
    [line] = [one for one in answers if one["custom_id"] == "r7"]
    assert [float32(x) for x in line["response"]["body"]["data"][0]["embedding"]] == [float32(x) for x in wanted]
    assert [one.id for one in client.batches.list(limit=10)] == [batch.id]
    assert {one.id for one in client.files.list()} == {file.id, batch.output_file_id}
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError):
        client.batches.create(input_file_id=batch.output_file_id, endpoint="/v1/embeddings", completion_window="24h")
