"""The README's five commands, from packages to a reward: what of them needs neither apt nor a systemd that runs. The rest is
debian/tests/first-steps, which `make deb-check` runs in a new Debian."""
import os
import re
import subprocess
import urllib.request

import pytest
import sandbox
from harness import BIN, PATIENCE, ROOT, wait_until
from test_service import Manager

COMMANDS = re.search(r"```\n(sudo apt install .*?)```", (ROOT / "README.md").read_text(), re.S).group(1).splitlines()
DOMAIN = "127.0.0.1"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A root in which `make install` has put everything, as the packages do."""
    if BIN != ROOT / "build" / BIN.parent.name / "bin":
        pytest.skip("the programs under test are not this tree's")
    root = tmp_path_factory.mktemp("root")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "-s", f"BUILD={BIN.parent.name}", f"DESTDIR={root}", "PREFIX=/usr", "install"], cwd=ROOT, env=env, check=True,
                   timeout=600 * PATIENCE)
    return root


def in_root(root, text):
    """The text, with this machine's names for what is in the root."""
    return re.sub(r"(?<![\w.])/(usr|etc|var)/", rf"{root}/\1/", text)


class Unit:
    """A service's process, as its unit starts it: command, environment and system calls."""

    def __init__(self, root, name, manager, **environment):
        text = (root / f"lib/systemd/system/{name}.service").read_text()
        words = in_root(root, re.search(r"^ExecStart=(.*)$", text, re.M).group(1))
        for key, value in {**dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.M)), **environment}.items():
            words = words.replace("${%s}" % key, value).replace(f"${key}", value)
        self.path = root / f"{name}.log"
        env = {**os.environ, **manager.env, "ASAN_OPTIONS": "detect_leaks=0"}
        self.process = subprocess.Popen(words.split(), stderr=open(self.path, "wb"), env=env, preexec_fn=sandbox.preexec(text))

    def words(self):
        return self.path.read_text(errors="replace")

    def stop(self):
        self.process.terminate()
        return self.process.wait(30 * PATIENCE)


def test_there_are_five():
    assert [command.split()[0] for command in COMMANDS] == ["sudo", "echo", "sudo", "curl", "xdg-open"]
    units = re.match(r"sudo systemctl enable --now (.*)", COMMANDS[2]).group(1).split()
    assert all((ROOT / place / f"{name}.service").exists() for name, place in zip(units, ("broker", "broker/http"), strict=True))


def test_without_a_model_the_reason_names_the_file(installed):
    conf = installed / "etc/assay/assayd.conf"
    done = subprocess.run([BIN / "assayd", "--config", conf, "--data", installed / "none"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 64 and f"or a line `model = DIR` in {conf}, found none" in done.stderr
    assert "#model = /usr/share/assay/models/demo-reward\n" in conf.read_text()


@pytest.mark.skipif(not sandbox.is_there(), reason="systemd-analyze or cc is not there: the units' system calls")
def test_the_filter_is_in_force(installed):
    """A call that the units refuse fails, in a child of this process."""
    text = (installed / "lib/systemd/system/assayd.service").read_text()
    code = "import os\ntry:\n  os.setpriority(os.PRIO_PROCESS, 0, 5)\nexcept PermissionError:\n  print('refused')"
    done = subprocess.run(["python3", "-c", code], capture_output=True, text=True, timeout=60, preexec_fn=sandbox.preexec(text))
    assert done.stdout == "refused\n", done


@pytest.mark.skipif(not sandbox.is_there(), reason="systemd-analyze or cc is not there: the units' system calls")
def test_from_a_model_to_a_reward_and_the_page(installed, tmp_path):
    (installed / "var/lib").mkdir(parents=True)
    subprocess.run(["sh", "-c", in_root(installed, COMMANDS[1]).replace("sudo ", "")], check=True, capture_output=True, timeout=60)
    managers = [Manager(tmp_path / name) for name in ("a", "b")]
    broker = Unit(installed, "assayd", managers[0])
    front = None
    try:
        managers[0].hear("READY=1", 60)
        front = Unit(installed, "assay-http", managers[1], LISTEN=f"{DOMAIN}:0")
        managers[1].hear("READY=1", 30)
        port = wait_until(lambda: re.search(r"url=http://.*:(\d+) ", front.words())).group(1)
        done = subprocess.run(["sh", "-c", COMMANDS[3].replace("localhost:8000", f"{DOMAIN}:{port}") + " -s --fail"], capture_output=True, text=True,
                              timeout=60)
        assert done.returncode == 0 and float(done.stdout) > 0, (done, broker.words(), front.words())
        page = COMMANDS[4].split()[1].replace("localhost:8000", f"{DOMAIN}:{port}")
        assert urllib.request.urlopen(page, timeout=60).read().startswith(b"<!doctype html>")
        assert front.stop() == 0
        assert broker.stop() == 0
    finally:
        for unit in (front, broker):
            if unit and unit.process.poll() is None:
                unit.process.kill()
                unit.process.wait()
