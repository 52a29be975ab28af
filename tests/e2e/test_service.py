"""What a service manager hears of assayd and assay-http, and the units for systemd."""
import os
import re
import select
import shutil
import socket
import subprocess
import time

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, wait_until
from http_harness import Http

UNITS = {"assayd.service": ROOT / "broker/assayd.service", "assay-http.service": ROOT / "broker/http/assay-http.service"}
SOCKET = ROOT / "broker/http/assay-http.socket"
HARDEST = {"assayd.service": 1.5, "assay-http.service": 1.2}  # `systemd-analyze security`: 0 is closed, 10 open


class Manager:
    """The socket of NOTIFY_SOCKET, and what came there."""

    def __init__(self, path, watchdog_s=None):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.env = {"NOTIFY_SOCKET": str(path)}
        if watchdog_s:
            self.env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.heard = []

    def hear(self, wanted, seconds):
        """All until this came."""
        until = time.monotonic() + seconds * PATIENCE
        while not any(wanted in text for text in self.heard):
            left = until - time.monotonic()
            assert left > 0 and select.select([self.socket], [], [], left)[0], (wanted, self.heard)
            self.heard.append(self.socket.recv(4096).decode())
        return self.heard


def test_assayd_is_ready_after_the_canary(tmp_path):
    manager = Manager(tmp_path / "n", watchdog_s=1.5)
    broker = Broker(tmp_path / "d", model=MODELS / "demo-reward", env=manager.env)
    broker.start()
    try:
        manager.hear("READY=1", 60)
        with broker.client() as client:
            workers = client.call("info")["workers"]
            assert workers and all(worker["state"] == "ready" for worker in workers)
            environ = [open(f"/proc/{pid}/environ").read() for pid in broker.worker_pids()]
        assert environ and not any("NOTIFY_SOCKET=" in text for text in environ)
        manager.heard.clear()
        for _ in range(3):
            manager.heard.clear()
            manager.hear("WATCHDOG=1", 3)
        broker.process.terminate()
        manager.hear("STOPPING=1", 30)
        assert sum("READY=1" in text for text in manager.heard) == 0
    finally:
        broker.__exit__()


def test_not_ready_where_the_workers_do_not_start(tmp_path):
    manager = Manager(tmp_path / "n")
    broker = Broker(tmp_path / "d", model=MODELS / "demo-reward", env=manager.env, worker="/bin/false")
    broker.start(wait=False)
    try:
        time.sleep(2)
        assert not select.select([manager.socket], [], [], 0)[0]
    finally:
        broker.__exit__()


def test_assay_http_is_ready_once_it_listens(directory):
    manager = Manager(directory / "n", watchdog_s=1.5)
    with Broker(directory / "d", model=MODELS / "demo-reward") as broker:
        environ = dict(os.environ)
        os.environ.update(manager.env)
        try:
            http = Http(directory, broker)
            http.__enter__()
        finally:
            os.environ.clear()
            os.environ.update(environ)
        try:
            manager.hear("READY=1", 30)
            manager.hear("WATCHDOG=1", 3)
        finally:
            http.__exit__(None, None, None)
        manager.hear("STOPPING=1", 30)


def test_whoever_waits_for_assay_http_finds_scores(tmp_path):
    """Ready when the broker has answered, and after some seconds where there is none."""
    manager = Manager(tmp_path / "n")
    os.environ["NOTIFY_SOCKET"] = manager.env["NOTIFY_SOCKET"]
    http = None
    try:
        with Broker(tmp_path / "d", model=MODELS / "demo-reward") as broker:
            del os.environ["NOTIFY_SOCKET"]
            with broker.client() as client:
                wait_until(lambda: client.call("info")["workers"][0]["state"] == "ready")
            os.environ["NOTIFY_SOCKET"] = manager.env["NOTIFY_SOCKET"]
            manager.hear("READY=1", 60)
            for _ in range(5):
                manager.heard.clear()
                http = Http(tmp_path, broker)
                http.start(ready=False)
                manager.hear("READY=1", 4)
                assert http.post("/rm", {"prompt": "3 + 4 = ?", "response": "7"})[0] == 200
                http.__exit__(None, None, None)
                manager.hear("STOPPING=1", 30)
        manager.heard.clear()
        http = Http(tmp_path, broker)
        http.start(ready=False)
        manager.hear("READY=1", 30)
        assert http.get("/ready")[0] == 503
        http.__exit__(None, None, None)
    finally:
        os.environ.pop("NOTIFY_SOCKET", None)


@pytest.fixture
def units(tmp_path):
    (tmp_path / SOCKET.name).write_text(SOCKET.read_text())
    for name, path in UNITS.items():
        (tmp_path / name).write_text(path.read_text().replace("@BIN@", str(BIN)).replace("@ETC@", "/etc"))
    return tmp_path


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not there")
@pytest.mark.parametrize("name", UNITS)
def test_units_are_sound(units, name):
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *map(str, (units / other for other in [*UNITS, SOCKET.name]))],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "service:" not in done.stderr, done.stderr
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", units / name], capture_output=True, text=True, timeout=60)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    if not found:
        pytest.skip(f"systemd-analyze security is too old here: {done.stderr.strip()[:100]}")
    assert float(found.group(1)) <= HARDEST[name], done.stdout


def test_options_of_the_units_exist():
    """Whatever a unit or the example of a configuration names is an option of its program."""
    for name, path in UNITS.items():
        line = re.search(r"^ExecStart=@BIN@/(\S+) (.*)$", path.read_text(), re.M)
        text = subprocess.run([BIN / line.group(1), "--help"], capture_output=True, text=True).stdout
        for option in re.findall(r"--[a-z-]+", line.group(2)):
            assert f"  {option} " in text, (name, option)
    text = subprocess.run([BIN / "assayd", "--help"], capture_output=True, text=True).stdout
    keys = re.findall(r"^#([a-z-]+) = ", (ROOT / "broker/assayd.conf").read_text(), re.M)
    assert keys and all(f"  --{key} " in text for key in keys)
