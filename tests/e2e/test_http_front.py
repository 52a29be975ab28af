"""assayd --http: the broker starts assay-http in front of itself, starts it again when it dies, and ends it with itself."""
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, wait_until

MODEL = MODELS / "demo-reward"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Front(Broker):
    """A broker with --http, and options of assay-http behind `--`."""

    def __init__(self, directory, words=(), options=(), **more):
        self.port = free_port()
        super().__init__(directory / "d", model=MODEL, options=[*options, "--http", f"127.0.0.1:{self.port}"], **more)
        self.command += ["--", *map(str, words)] if words else []

    def ask(self, path, body=None, **headers):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", None if body is None else json.dumps(body).encode(),
                                         {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=20 * PATIENCE) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()
        except (urllib.error.URLError, ConnectionError):
            return 0, ""

    def ready(self, **headers):
        wait_until(lambda: self.ask("/ready", **headers)[0] == 200)

    def info(self):
        with self.client() as client:
            return client.call("info")["http"]


def is_alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_is_there_and_ends_with_the_broker(directory):
    with Front(directory) as broker:
        broker.ready()
        info = broker.info()
        assert info == {"url": f"http://127.0.0.1:{broker.port}", "pid": info["pid"], "restarts": 0} and is_alive(info["pid"])
        with broker.client() as client:
            wanted = client.call("score", rows=[{"text": "3 + 4 = 7"}])["rows"][0]["score"]
        status, text = broker.ask("/classify", {"input": "3 + 4 = 7"})
        assert status == 200 and abs(json.loads(text)["data"][0]["probs"][0] - wanted) < 1e-6
        began = time.monotonic()
        assert broker.stop() == 0 and not is_alive(info["pid"])
        assert time.monotonic() - began < 5 * PATIENCE
        assert broker.ask("/health")[0] == 0


def test_a_killed_broker_takes_it_along(directory):
    with Front(directory) as broker:
        broker.ready()
        pid = broker.info()["pid"]
        broker.kill9()
        wait_until(lambda: not is_alive(pid))
        broker.start()
        broker.ready()
        assert broker.info()["pid"] != pid


def test_it_is_started_again(directory):
    """Killed twice: started anew, later each time; the broker and its jobs do not notice."""
    with Front(directory) as broker, broker.client() as client:
        broker.ready()
        job = client.submit("steady", [{"ids": [5, 9, k % 300]} for k in range(200)])["job"]
        for restarts in (1, 2):
            pid = broker.info()["pid"]
            os.kill(pid, signal.SIGKILL)
            seen = wait_until(lambda: (i := broker.info())["pid"] != pid and i)
            assert seen["pid"] == 0 and "signal 9" in seen["failure"] or seen["restarts"] == restarts
            seen = wait_until(lambda: (i := broker.info())["pid"] not in (0, pid) and i)
            assert seen["restarts"] == restarts and "failure" not in seen
            broker.ready()
        assert len(client.results(job)) == 200 and broker.process.poll() is None
        assert broker.words().count("event=http_ended") == 2


def test_its_options_are_handed_on(directory):
    """Keys and files work; a file that is wrong is said in info and in the log, and the broker serves all the same."""
    keys = directory / "keys"
    keys.write_text("me s3cret-token-of-the-trainer\n")
    keys.chmod(0o600)
    with Front(directory, ["--api-keys", keys, "--files", directory / "files", "--served-model-name", "rm"]) as broker:
        broker.ready()
        assert broker.ask("/v1/models")[0] == 401
        status, text = broker.ask("/v1/models", Authorization="Bearer s3cret-token-of-the-trainer")
        assert status == 200 and json.loads(text)["data"][0]["id"] == "rm" and (directory / "files/lock").exists()
        broker.stop()
        keys.chmod(0o644)
        broker.start()
        info = wait_until(lambda: (i := broker.info()).get("failure", "").startswith("it ended") and i)
        assert "exit code 78" in info["failure"] and "options" in info["failure"] and "chmod 600" in broker.words()
        with broker.client() as client:
            assert client.call("score", rows=[{"ids": [5]}])["rows"]


def test_a_broker_that_listens_elsewhere(directory):
    broker = Front(directory, options=["--listen", f"ipc://{directory}/other.sock"])
    broker.endpoint = f"ipc://{directory}/other.sock"
    with broker:
        broker.ready()
        assert broker.ask("/classify", {"input": "a"})[0] == 200


def test_documented_example(tmp_path):
    example = next(text for text in re.findall(r"```sh\n(.*?)```", (ROOT / "broker/http/README.md").read_text(), re.S) if "--http" in text)
    port = free_port()
    example = example.replace("build/cpu/bin", str(BIN)).replace("tests/models", str(MODELS)).replace(":8000", f":{port}")
    with subprocess.Popen(["sh", "-c", f"exec {example}"], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        def ready():
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/files", timeout=5).status == 200
            except OSError:
                return False

        wait_until(ready)
        process.terminate()
        process.communicate(timeout=30 * PATIENCE)
        assert process.returncode == 0


@pytest.mark.parametrize("words, says", [
    (["--http", "127.0.0.1"], "--http"), (["--http", "127.0.0.1:0"], "--http"), (["--", "--files", "x"], "unexpected argument"),
    (["--http", "127.0.0.1:1", "--", "--listen", "a:1"], "--listen"), (["--http", "127.0.0.1:1", "--", "--dat=x"], "--data"),
    (["--http", "127.0.0.1:1", "--", "--help"], "found --help"), (["--http", "127.0.0.1:1", "--", "-h"], "found -h"), (["--http", "127.0.0.1:1", "--", "--vers"], "found --version"),
    (["--http", "127.0.0.1:1", "--exit-with-parent=1"], "--http"), (["--http", "127.0.0.1:1", "x"], "unexpected argument"),
])
def test_options_that_are_refused(directory, words, says):
    done = subprocess.run([BIN / "assayd", "--model", MODEL, "--data", directory / "d", *words], capture_output=True, text=True, timeout=30 * PATIENCE)
    assert done.returncode in (64, 78) and says in done.stderr, done
