"""The command line's second half: man pages, completion, top, jobs, purge."""
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import subprocess
import termios
import time

import pytest
from harness import BIN, DEMO, PATIENCE, Broker, Refused, ids_bytes, random_key, wait_until

ASSAY = str(BIN / "assay")
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


def run(*args, timeout=60, **options):
    return subprocess.run([ASSAY, *map(str, args)], capture_output=True, text=True, timeout=timeout * PATIENCE,
                          stdin=subprocess.DEVNULL, **options)


def verbs():
    """From the overview: the words that begin a line under "Verbs"."""
    lines = run("--help").stdout.split("Verbs (each has --help):\n")[1].splitlines()
    return [line.split()[0] for line in lines if re.match(r"  \w", line)]


# ---- help, man, completion ----

def test_help_fits_80_columns():
    found = verbs()
    assert {"score", "submit", "results", "top", "man", "completion"} <= set(found)
    for text in [run("--help").stdout, *(run(verb, "--help").stdout for verb in found)]:
        assert "Examples:" in text.split("\n\n")[1]
        assert max(map(len, text.splitlines())) < 80, text
        assert not re.search(r"[ \t]\n", text)


def test_an_option_that_a_verb_does_not_use_is_refused(directory):
    done = run("tokenize", "so", "--model", directory, "--data", directory)
    assert done.returncode == 64 and "--data" in done.stderr


def test_man_pages_say_what_help_says(directory):
    assert run("man", "--dir", directory).returncode == 0
    assert {path.name for path in directory.glob("*.1")} == {"assay.1", "assayd.1", "assay-http.1", *(f"assay-{verb}.1" for verb in verbs())}
    overview = (directory / "assay.1").read_text()
    for verb in verbs():
        page = (directory / f"assay-{verb}.1").read_text()
        assert page == run("man", verb).stdout
        assert f"assay\\-{verb} (1)" in overview
        options = re.findall(r"^  (?:-\w, )?--([a-z-]+)", run(verb, "--help").stdout, re.M)
        shared = {"connect", "data", "json", "timeout"} & set(options)
        asks_no_broker = {"scrub": {"data", "json"}, "backup": {"data", "json"}, "doctor": {"data", "json"}, "check": {"json"}, "tokenize": {"json"}, "man": set(), "completion": set(), "shard": set()}
        assert shared == asks_no_broker.get(verb, {"connect", "data", "json", "timeout"}) and "help" in options, verb
        found = re.findall(r"^(?:\\fB\\-\w\\fR, )?\\fB\\-\\-(\S+)\\fR", page, re.M)
        assert [name.replace("\\-", "-") for name in found] == options
        headings = [page.index(f".SH {name}") for name in ("NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES")]
        assert headings == sorted(headings)
    for program in ("assayd", "assay-http"):
        page, help_text = (directory / f"{program}.1").read_text(), subprocess.run([BIN / program, "--help"], capture_output=True, text=True).stdout
        assert page == run("man", program).stdout
        found = re.findall(r"^\\fB\\-\\-(\S+?)\\fR", page, re.M)
        assert [name.replace("\\-", "-") for name in found] == re.findall(r"^  --([a-z-]+)", help_text, re.M)
    assert run("man", "nothing").returncode == 64
    assert run("man", "--dir", directory / "missing").returncode == 74


def complete(script, *words):
    """What bash offers when the cursor is behind the last of these words."""
    lines = [f"source {script}", f"COMP_WORDS=({' '.join(map(repr, words))})", f"COMP_CWORD={len(words) - 1}", "_assay",
             'printf "%s\\n" "${COMPREPLY[@]}"']
    done = subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completion(directory):
    script = directory / "assay.bash"
    script.write_text(run("completion", "bash").stdout)
    (directory / "in put.jsonl").touch()
    assert complete(script, "assay", "") == [*verbs(), "--help", "--version"]
    assert complete(script, "assay", "sta") == ["status"]
    assert complete(script, "assay", "score", "--or") == ["--order"]
    assert complete(script, "assay", "score", "--order", "") == ["input", "completion"]
    assert complete(script, "assay", "score", "--order", "=", "c") == ["completion"]
    assert complete(script, "assay", "submit", f"{directory}/in") == [f"{directory}/in", "put.jsonl"]
    assert complete(script, "assay", "completion", "") == ["bash", "zsh", "fish"]
    assert complete(script, "assay", "man", "tok") == ["tokenize"]
    assert complete(script, "assay", "wait", "") == []
    assert run("completion", "tcsh").returncode == 64


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_names_every_option(shell):
    script = run("completion", shell).stdout
    for verb in verbs():
        assert re.search(rf"\b{verb}\b", script)
        for option in re.findall(r"--([a-z-]+) ", run(verb, "--help").stdout.split("Options:")[1]):
            assert re.search(rf"(--|-l ){option}\b", script), option


def test_a_value_that_is_not_in_the_table_is_named():
    done = run("score", "--order", "backwards")
    assert done.returncode == 64 and "--order" in done.stderr and "'backwards'" in done.stderr


# ---- top ----

def test_top_once(directory):
    with Broker(directory / "d") as broker, broker.client() as client:
        key = random_key()
        client.submit(key, [{"ids": [1, 2, 3]}] * 7)
        client.results(key)
        client.submit("tricks-\x1b[31m\n\u65e5\u672c", [{"ids": [1]}])
        client.call("cancel", job="tricks-\x1b[31m\n\u65e5\u672c")
        plain = run("top", "--data", broker.data)
        assert plain.returncode == 0 and "\x1b" not in plain.stdout
        assert re.search(rf"^{key[:12]}\S* +done .*7/7", plain.stdout, re.M), plain.stdout
        assert "tricks-?[31m?\u65e5\u672c" in plain.stdout and " ready " in plain.stdout
        found = json.loads(run("top", "--json", "--data", broker.data).stdout)
        assert found["info"]["counters"]["rows_done"] >= 7 and found["jobs"][0]["key"] == key
    assert run("top", "--data", broker.data, "--timeout", 1).returncode == 69


class Terminal:
    """assay on a pseudo-terminal of 80 x 24."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(ASSAY, [ASSAY, *map(str, args)], {**os.environ, "TERM": "xterm"})
        self.resize(80, 24)
        self.bytes = b""

    def resize(self, width, height):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, seconds=0.1):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                self.bytes += os.read(self.fd, 1 << 16)
            except OSError:
                pass

    def lines(self):
        """Of the last whole frame, without colours."""
        frames = self.bytes.split(b"\x1b[H")
        return re.sub(rb"\x1b\[[0-9;]*[mKJ]", b"", frames[-1]).decode(errors="replace").replace("\r", "").split("\n")

    def wait_for(self, pattern, timeout=20):
        deadline = time.monotonic() + timeout * PATIENCE
        while not re.search(pattern, "\n".join(self.lines())):
            assert time.monotonic() < deadline, self.lines()
            self.read()

    def end(self):
        """Exit status, once all that it wrote was read."""
        deadline = time.monotonic() + 20 * PATIENCE
        while True:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.read(0)
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline


def test_top_live(directory):
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("monday", [{"ids": [1, 2, 3]}] * 5)
        client.results("monday")
        terminal = Terminal("top", "--data", broker.data)
        terminal.wait_for(r"ready.*(\n.*)*monday .*5/5")
        assert terminal.bytes.startswith(ENTER)
        before = termios.tcgetattr(terminal.fd)[3]
        assert not before & termios.ICANON and not before & termios.ECHO
        terminal.wait_for(r"q quits")
        assert len(terminal.lines()) == 24 and max(map(len, terminal.lines())) <= 80
        terminal.resize(40, 10)
        wait_until(lambda: terminal.read() or len(terminal.lines()) == 10)
        assert max(map(len, terminal.lines())) <= 40
        broker.kill9()
        terminal.wait_for(r"broker unavailable\s+since \d\d:\d\d:\d\d|broker unavailable sinc")
        assert "GROUP RANK" in "\n".join(terminal.lines())
        broker.start()
        terminal.wait_for(r"ready")
        os.write(terminal.fd, b"q")
        assert terminal.end() == 0 and terminal.bytes.endswith(LEAVE)


def test_top_sorts_and_fits(directory):
    """`s` orders jobs by another column at once; 40 columns have each job's state, rows and time left, 100 all there is to say."""
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("failing", [{"ids": []}] * 3, priority=-5)
        client.submit("fine", [{"ids": [1, 2]}] * 2, priority=7)
        client.results("failing"), client.results("fine")
        terminal = Terminal("top", "--data", broker.data)
        terminal.resize(100, 24)
        terminal.wait_for(r"FAILED +ROWS/S +LEFT PRIO\n(fine .* 7 *\n)failing .* 3 .* -5")
        terminal.wait_for(r"STATE +BUSY +PID(.*\n) +0 +0 ready +\d+% ")
        terminal.wait_for(r"q quits  s sorts by rate")
        for pressed in "sss":
            os.write(terminal.fd, pressed.encode())
        terminal.wait_for(r"PRIO\nfailing .*\nfine (.*\n)*.*s sorts by priority")
        os.write(terminal.fd, b"s")
        terminal.wait_for(r"PRIO\nfine .*\nfailing (.*\n)*.*s sorts by state")
        terminal.resize(40, 20)
        terminal.wait_for(r"JOB +STATE +DONE/TOTAL +LEFT\nfine +done +2/2 +-\n")
        assert max(map(len, terminal.lines())) <= 40
        os.write(terminal.fd, b"q")
        assert terminal.end() == 0


@pytest.mark.parametrize("broker_is", ["there", "away"])
def test_top_ends_with_its_terminal(directory, broker_is):
    """Also where SIGHUP is ignored: it asked for keys for ever."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    broker = Broker(directory / "d")
    try:
        if broker_is == "there":
            broker.start()
        terminal = Terminal("top", "--data", broker.data)
        terminal.wait_for("ready" if broker_is == "there" else "unavailable since")
        os.close(terminal.fd)
        _, status = wait_until(lambda: (done := os.waitpid(terminal.pid, os.WNOHANG))[0] and done, 20)
        assert os.waitstatus_to_exitcode(status) == 74
    finally:
        signal.signal(signal.SIGHUP, before)
        if broker.process:
            broker.stop()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "q"])
def test_top_puts_the_terminal_back_while_nobody_answers(directory, how):
    terminal = Terminal("top", "--data", directory)
    kept = os.dup(terminal.fd)
    terminal.wait_for(r"broker unavailable since")
    if how == "q":
        os.write(terminal.fd, b"q")
    else:
        os.kill(terminal.pid, how)
    assert terminal.end() == (0 if how == "q" else 128 + how)
    assert terminal.bytes.count(ENTER) == 1 and terminal.bytes.endswith(LEAVE)
    assert termios.tcgetattr(kept)[3] & termios.ICANON and termios.tcgetattr(kept)[3] & termios.ECHO
    os.close(kept)


# ---- jobs ----

def test_jobs_on_a_terminal_fit_it_and_elsewhere_are_whole(directory):
    key = "a-key-that-is-longer-than-its-column-" + "x" * 100
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit(key, [{"ids": [1]}])
        client.submit("tricks-\x1b[31m\n", [{"ids": [1]}])
        client.results(key)
        terminal = Terminal("jobs", "--data", broker.data)
        assert terminal.end() == 0
        assert len(terminal.lines()) == 4 and max(map(len, terminal.lines())) <= 80
        assert "a-key-that" in terminal.lines()[1] and re.search(r" done +1 +1 +0 ", terminal.lines()[1])
        assert key in run("jobs", "--data", broker.data).stdout
        for verb in ("jobs", "status", "top"):
            assert "tricks-?[31m?" in run(verb, "--data", broker.data).stdout
        rows = directory / "rows.jsonl"
        rows.write_text('{"input_ids": [1]}\n')
        quoted = run("submit", rows, "--key", 'say "a"', "--json", "--data", broker.data)
        assert json.loads(quoted.stdout) == {"key": 'say "a"', "accepted": 1, "bad_lines": 0}
        assert run("retry", key, "--failed", "--data", broker.data).stdout == "job 1: done, 0 rows queued again\n"


def test_more_jobs_than_a_reply_holds(directory):
    with Broker(directory / "d") as broker, broker.client() as client:
        for k in range(1005):
            client.submit(f"k{k}", None)
        listed = json.loads(run("jobs", "--json", "--data", broker.data).stdout)["jobs"]
        assert [job["key"] for job in listed] == [f"k{k}" for k in range(1005)]
        assert len(run("jobs", "--data", broker.data).stdout.splitlines()) == 1006
        assert len(json.loads(run("top", "--json", "--data", broker.data).stdout)["jobs"]) == 1005
        assert run("purge", "--older-than", "0s", "--data", broker.data).stdout == "1005 jobs purged, 0 rows\n"
        assert json.loads(run("jobs", "--json", "--data", broker.data).stdout) == {"jobs": []}


# ---- purge ----

def test_purge_gives_the_space_back(directory):
    """A large job goes, over kills of the broker; the others are untouched, and the file is small again."""
    broker = Broker(directory / "d", options=["--threads", 1])

    def size():
        return (broker.data / "assay.db").stat().st_size + (broker.data / "assay.db-wal").stat().st_size

    def purge(*args):
        return run("purge", "--data", broker.data, *args)

    with broker, broker.client() as client:
        client.submit("kept", [{"ids": [k, 1, 2]} for k in range(20)])
        kept = client.results("kept")
        client.submit("large", [{"ids": [1]}], seal=False)
        client.call("pause", job="large")
        rows = [{"ids": ids_bytes([7] * 2000)}] * 1000
        for chunk in range(1, 9):
            client.submit("large", rows, chunk=chunk, seal=chunk == 8)
        done = purge("large")
        assert done.returncode == 65 and "paused" in done.stderr
        assert json.loads(purge("large", "--older-than", "0s", "--json").stdout) == {"jobs": 0, "rows": 0}
        client.call("cancel", job="large")
        assert purge("--older-than", "1h").stdout == "0 jobs purged, 0 rows\n"
        wait_until(lambda: size() > 60 << 20)
        assert purge("large").stdout == "1 job purged, 8001 rows\n"
        assert broker.sql("select key from jobs") == [("kept",)]
        assert client.submit("large", [{"ids": [3]}])["job"] > 2
        kills = []  # how many rows each has left
        while not kills or (kills[-1] > 0 and len(kills) < 6):
            broker.kill9()
            kills.append(broker.sql("select count(*) from row where row >> 32 = 2")[0][0])
            broker.log.close()
            broker.start()
        assert kills == sorted(kills, reverse=True) and 0 < kills[0] < 8001  # so at least one came in the middle
    with broker, broker.client() as client:
        wait_until(lambda: broker.sql("select count(*) from row")[0][0] == 21, 60)
        wait_until(lambda: (broker.data / "assay.db").stat().st_size < 4 << 20, 60)
        assert client.results("kept") == kept
        assert len(client.results("large")) == 1
        assert broker.sql("pragma integrity_check") == [("ok",)]


def test_purge_by_age(directory):
    with Broker(directory / "d") as broker, broker.client() as client:
        for key in ("a", "b"):
            client.submit(key, [{"ids": [1, 2]}])
            client.results(key)
        client.submit("open", [{"ids": [1, 2]}], seal=False)
        assert run("purge", "--older-than", "30m", "--data", broker.data).stdout == "0 jobs purged, 0 rows\n"
        assert run("purge", "b", "--older-than", "1d", "--data", broker.data).stdout == "0 jobs purged, 0 rows\n"
        assert run("purge", "--older-than", "0s", "--data", broker.data).stdout == "2 jobs purged, 2 rows\n"
        assert [job["key"] for job in client.call("jobs")["jobs"]] == ["open"]
        assert run("purge", "a", "--data", broker.data).returncode == 65  # unknown now
        with pytest.raises(Refused, match="bad_request"):
            client.call("purge")
        for bad in ("", "7", "7w", "-1d", "1.5h", "d", "99999999d"):
            done = run("purge", "--older-than", bad, "--data", broker.data)
            assert done.returncode == 64 and "7d" in done.stderr, bad
    assert run("purge").returncode == 64


def test_a_pipe_without_a_writer(directory):
    """It is waited for, which is said; a signal ends that."""
    os.mkfifo(pipe := directory / "pipe")
    command = [BIN / "assay", "score", pipe, "--model", DEMO]
    for way in ("written", "stopped"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr.readline() == f"assay: waiting for somebody to write to the pipe '{pipe}'\n"
        if way == "written":
            pipe.write_text('{"id": "a", "ids": [1, 2]}\n')
        else:
            process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60 * PATIENCE)
        assert (process.returncode, len(out.splitlines())) == ((0, 1) if way == "written" else (143, 0))


def test_scrub_of_a_damaged_schema(directory):
    """Nothing of the file can be read then, which is a finding: the same exit code as for any other."""
    with Broker(directory / "d") as broker, broker.client() as client:
        client.call("score", rows=[{"ids": [1, 2]}])
    with contextlib.closing(sqlite3.connect(broker.data / "assay.db", isolation_level=None)) as database:
        database.execute("pragma writable_schema = on")
        database.execute("update sqlite_master set sql = 'create tafle block' where name = 'block'")
    done = run("scrub", "--data", broker.data)
    assert done.returncode == 65 and "nothing can be read" in done.stdout and "1 damaged" in done.stdout, (done.stdout, done.stderr)


def test_results_are_of_one_job(directory):
    """A key that is another job's after a purge: what follows the first job does not print the second's rows."""
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("k", [{"id": "first", "ids": [1, 2]}], seal=False)
        follow = subprocess.Popen([BIN / "assay", "results", "k", "--follow", "--data", broker.data],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert json.loads(follow.stdout.readline())["id"] == "first"
        os.kill(follow.pid, signal.SIGSTOP)
        client.call("cancel", job="k")
        client.call("purge", job="k")
        client.submit("k", [{"id": row, "ids": [3, row]} for row in range(5)])
        client.results("k")
        os.kill(follow.pid, signal.SIGCONT)
        out, said = follow.communicate(timeout=30)
        assert out == "" and (follow.returncode == 1 and "cancelled" in said or follow.returncode == 65 and "unknown" in said), said
