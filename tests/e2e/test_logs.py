"""Log lines of all processes, in both forms: each is one event that a program can read, whatever stands in it."""
import json
import os
import pathlib
import re
import signal
import subprocess

import pytest
from harness import BIN, FAULTY_WORKER, MODELS, ROOT, Broker, wait_until
from http_harness import Http
from test_http_front import free_port

HEAD = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (error|warn|info|debug) (assayd|assay-worker|assay-http) (-|\d+)")
PAIR = re.compile(r' ([a-z0-9_]+)=("(?:[^"\\]|\\["\\])*"|[^ "=\\]+)')


def read_text(line):
    """A line by the rules of log.h, to the last byte."""
    head = HEAD.match(line)
    assert head, line
    at, found = head.end(), {"ts": head[1], "level": head[2], "role": head[3], "rank": None if head[4] == "-" else int(head[4])}
    while at < len(line):
        pair = PAIR.match(line, at)
        assert pair and pair[1] not in found, (line, line[at:])
        found[pair[1]] = re.sub(r"\\(.)", r"\1", pair[2][1:-1]) if pair[2][0] == '"' else pair[2]
        at = pair.end()
    return found


def read_json(line):
    def once(pairs):
        assert len({key for key, _ in pairs}) == len(pairs), line
        return dict(pairs)

    found = json.loads(line, object_pairs_hook=once)
    assert list(found)[:4] == ["ts", "level", "role", "rank"] and not any(isinstance(v, (list, dict)) for v in found.values()), line
    return found


@pytest.mark.parametrize("form, read", [("text", read_text), ("json", read_json)])
def test_every_line_is_read(directory, form, read):
    """A broker with its workers and assay-http, through a bad row, a worker's death, an endpoint in a folder with blanks and quotes,
    refused files, and the end."""
    data = directory / 'a "b" level=error'
    data.mkdir(mode=0o700)
    options = ["--log-level", "debug", "--log-format", form, "--http", f"127.0.0.1:{free_port()}"]
    with Broker(data, model=MODELS / "demo-reward", worker=FAULTY_WORKER, options=options) as broker, broker.client() as client:
        client.call("score", rows=[{"ids": [5, 7, 6]}, {"ids": [5, 9, 6]}, {"ids": [5, 6]}])
        [worker] = client.call("info")["workers"]
        assert b"\0--log-level\0debug\0" in pathlib.Path(f"/proc/{worker['pid']}/cmdline").read_bytes()
        assert (b"\0--log-format\0json\0" in pathlib.Path(f"/proc/{worker['pid']}/cmdline").read_bytes()) == (form == "json")
        os.kill(worker["pid"], signal.SIGKILL)
        client.call("score", rows=[{"ids": [5, 6, 7, 8]}])
        wait_until(lambda: re.search('"role":"assay-http"| assay-http ', broker.log_path.read_text()))
        broker.stop()
        lines = broker.log_path.read_text().splitlines()
    found = [read(line) for line in lines]
    assert {"assayd", "assay-http"} <= {line["role"] for line in found} and len(found) > 10
    assert {"listening", "draining"} <= {line["event"] for line in found}
    assert all(re.fullmatch(r"[a-z0-9_]+", line["event"]) for line in found)
    [listening] = [line for line in found if line["event"] == "listening" and line["role"] == "assayd"]
    assert listening["data"] == str(data) and listening["level"] == "info"  # not what the folder's name says


@pytest.mark.parametrize("form, read", [("text", read_text), ("json", read_json)])
def test_the_workers_words(form, read):
    command = [BIN / "assay-worker", "--model", str(MODELS / "demo-reward"), "--rank", "3", "--tp", "4", "--log-format", form,
               *"--control ipc:///nowhere --input-fd 0 --output-fd 0 --comm-fd 0 --parent-fd 0".split()]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # no broker is at the other end
    [line] = map(read, done.stderr.splitlines())
    assert (line["role"], line["level"], line["rank"], line["event"]) == ("assay-worker", "error", 3, "broker_gone")


def test_assay_http_alone(directory):
    with Broker(directory / "d", model=MODELS / "demo-reward") as broker:
        http = Http(directory, broker, ["--log-format", "json"])
        http.find_port = lambda: next((int(line["url"].rsplit(":")[-1]) for line in map(read_json, http.words().splitlines()) if line["event"] == "listening"), None)
        with http:
            assert http.get("/health")[0] == 200
        assert "stopping" in [read_json(line)["event"] for line in http.words().splitlines()]


@pytest.mark.parametrize("program, options", [("assayd", ["--model", str(MODELS / "demo-reward")]), ("assay-http", []), ("assay-worker", ["--model", "x"])])
def test_another_form_is_refused(program, options):
    done = subprocess.run([BIN / program, *options, "--log-format", "xml"], capture_output=True, text=True)
    assert done.returncode == 64 and "log-format" in done.stderr and "text or json" in done.stderr and "xml" in done.stderr


def test_every_format_is_pairs():
    """In the sources: a line begins with its event, no key comes twice, and none is one of the head's."""
    calls = 0
    for path in [p for folder in ("broker", "worker", "shm", "schema", "cuda") for p in (ROOT / folder).rglob("*.c")]:
        for call in re.findall(r"\blog_(?:error|warn|info|debug)\(\s*((?:\"(?:[^\"\\]|\\.)*\"\s*)+)", path.read_text()):
            words = "".join(re.findall(r"\"((?:[^\"\\]|\\.)*)\"", call)).replace('\\"', '"')
            keys = re.findall(r"(?:^| )([a-z0-9_]+)=", re.sub(r'"[^"]*"', '""', words))
            assert keys and keys[0] == "event" and len(set(keys)) == len(keys) and not {"ts", "level", "role", "rank", "message"} & set(keys), (path, words)
            calls += 1
    assert calls > 80
