"""Where the command line writes: devices, pipes, links, locks; what it does when it must wait; signals."""
import gzip
import json
import os
import resource
import signal
import stat
import subprocess
import threading

import pytest
import zmq
from harness import BIN, DEMO, MODELS, PATIENCE, Broker, wait_until
from test_cli import ASSAY, read_lines, rows_done, run, write_rows


def score(rows, output, *more, **options):
    return run("score", rows, "-o", output, "--model", DEMO, "--threads", "1", *more, **options)


def start(*args, **options):
    return subprocess.Popen([ASSAY, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def ids(path):
    return [line["id"] for line in read_lines(path)]


EXPECTED = [f"row-{k}" for k in range(20)]


@pytest.fixture
def rows(directory):
    return write_rows(directory / "in.jsonl", 20)


# ---- what -o names ----

def test_a_device_stays_a_device(directory, rows):
    """A node of its own: whatever is done to it, the machine's /dev/null is not the one."""
    node = directory / "null"
    try:
        os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        open(node, "w").close()
    except PermissionError:
        pytest.skip("device nodes need root")
    done = score(rows, node, "--data", directory / "d")
    assert done.returncode == 0, done.stderr
    assert stat.S_ISCHR(node.stat().st_mode) and node.stat().st_rdev == os.makedev(1, 3)
    assert not (directory / "null.part").exists()
    assert score(rows, node, "--keep-data").returncode == 0  # and no folder stands beside it
    assert (directory / "in.jsonl.assay").exists() and not (directory / "null.assay").exists()


def test_a_pipe_is_written_through(directory, rows):
    pipe = directory / "pipe"
    os.mkfifo(pipe)
    process = start("score", rows, "-o", pipe, "--model", DEMO, "--data", directory / "d")
    with open(pipe) as f:
        found = [json.loads(line)["id"] for line in f]
    assert process.wait(60 * PATIENCE) == 0 and found == EXPECTED
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_without_a_reader_can_be_given_up(directory, rows):
    os.mkfifo(directory / "pipe")
    process = start("score", rows, "-o", directory / "pipe", "--model", DEMO)
    assert "waiting" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 143


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(directory, rows, there):
    (directory / "far").mkdir()
    if there:
        (directory / "far/real.jsonl").write_text("old\n")
        os.chmod(directory / "far/real.jsonl", 0o640)
    (directory / "hop").symlink_to("far/real.jsonl")
    (directory / "link").symlink_to(directory / "hop")
    done = score(rows, directory / "link", "--data", directory / "d")
    assert done.returncode == 0, done.stderr
    assert (directory / "link").is_symlink() and (directory / "hop").is_symlink()
    assert ids(directory / "far/real.jsonl") == EXPECTED and len(list((directory / "far").iterdir())) == 1
    if there:
        assert stat.S_IMODE((directory / "far/real.jsonl").stat().st_mode) == 0o640


def test_stdout_by_its_name(directory, rows):
    """Appended to, as the shell opened it; and the file itself named beside the redirection."""
    out = directory / "out"
    out.write_text('{"id":"first"}\n')
    for name in ("/dev/stdout", out):
        with open(out, "a") as f:
            done = subprocess.run([ASSAY, "score", rows, "-o", name, "--model", DEMO, "--data", directory / "d"], stdout=f,
                                  stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, timeout=60 * PATIENCE)
        assert done.returncode == 0, done.stderr
    assert ids(out) == ["first", *EXPECTED, *EXPECTED]


@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link", "part", "stdin"])
def test_the_input_is_no_output(directory, rows, how):
    before, out, stdin = rows.read_bytes(), rows, None
    if how == "hard link":
        os.link(rows, out := directory / "out")
    elif how == "symbolic link":
        (out := directory / "out").symlink_to(rows)
    elif how == "part":
        rows = rows.rename(directory / "out.part")
        out = directory / "out"
    elif how == "stdin":
        stdin = open(rows)
    done = score("-" if stdin else rows, out, **({"stdin": stdin} if stdin else {}))
    assert done.returncode == 64 and "input" in done.stderr, done.stderr
    assert rows.read_bytes() == before and not list(directory.glob("*.assay"))


@pytest.mark.parametrize("by", ["name", "stdin"])
def test_stdout_is_not_the_input(directory, rows, by):
    """`>> FILE`: its own results would be rows."""
    before = rows.read_bytes()
    with open(rows, "ab") as out, open(rows, "rb") as stdin:
        done = subprocess.run([ASSAY, "score", rows if by == "name" else "-", "--model", DEMO], stdin=stdin, stdout=out,
                              stderr=subprocess.PIPE, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 64 and "is the input itself" in done.stderr, done.stderr
    assert rows.read_bytes() == before and not list(directory.glob("*.assay"))


@pytest.mark.parametrize("by", ["name", "stdin"])
def test_what_is_tokenized_is_not_the_input(directory, by):
    """It grew until the disk was full."""
    path = directory / "texts.jsonl"
    path.write_text('{"text": "so"}\n' * 5000)
    before = path.read_bytes()
    with open(path, "ab") as out, open(path, "rb") as stdin:
        done = subprocess.run([ASSAY, "tokenize", *(["--jsonl", path] if by == "name" else ["-"]), "--model", MODELS / "demo-reward"],
                              stdin=stdin, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 64 and "is the input itself" in done.stderr, done.stderr
    assert path.read_bytes() == before


def test_a_closed_stdin_is_no_other_file(directory):
    """The number of what is closed goes to no file that is opened later."""
    out = directory / "out"
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", ASSAY, "score", "-", "-o", out, "--model", DEMO],
                          capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 74 and "cannot read 'stdin': Bad file descriptor" in done.stderr, done.stderr
    assert not list(directory.iterdir())


def test_a_directory_is_no_output(directory, rows):
    (directory / "out").mkdir()
    done = score(rows, directory / "out")
    assert done.returncode == 64 and "directory" in done.stderr
    assert {path.name for path in directory.iterdir()} == {"in.jsonl", "out"}


def test_a_part_that_is_not_ours(directory, rows):
    (directory / "precious").write_text("kept")
    (directory / "out.part").symlink_to(directory / "precious")
    done = score(rows, directory / "out")
    assert done.returncode == 74 and "out.part" in done.stderr and "symbolic link" in done.stderr
    (directory / "out.part").unlink()
    os.link(directory / "precious", directory / "out.part")
    done = score(rows, directory / "out")
    assert done.returncode == 74 and "hard link" in done.stderr
    assert (directory / "precious").read_text() == "kept"
    (directory / "out.part").unlink()
    os.mkfifo(directory / "out.part")
    assert score(rows, directory / "out").returncode == 74


def test_man_pages_follow_links_and_leave_devices(directory):
    (directory / "real").write_text("old")
    (directory / "assay.1").symlink_to("real")
    (directory / "assay-top.1.part").symlink_to(directory / "precious")
    (directory / "precious").write_text("kept")
    assert run("man", "--dir", directory).returncode == 74
    assert (directory / "precious").read_text() == "kept"
    (directory / "assay-top.1.part").unlink()
    assert run("man", "--dir", directory).returncode == 0
    assert (directory / "assay.1").is_symlink() and (directory / "real").read_text().startswith(".TH assay")
    assert not list(directory.glob("*.part"))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_output_reads_back(directory, rows, suffix):
    out, plain = directory / f"out.jsonl.{suffix}", directory / "plain.jsonl"
    assert score(rows, out, "--data", directory / "d").returncode == 0
    assert score(rows, plain, "--data", directory / "d").returncode == 0
    if suffix == "gz":
        unpacked = gzip.decompress(out.read_bytes())
    else:
        assert out.read_bytes()[:4] == bytes.fromhex("28b52ffd")
        with Broker(directory / "b") as broker:  # the client reads what it wrote
            lines = [{"id": line["id"], "input_ids": [1]} for line in read_lines(plain)]
            plain.write_text("".join(json.dumps(line) + "\n" for line in lines))
            assert run("score", plain, "-o", out, "--data", broker.data).returncode == 0
            done = run("submit", out, "--key", "again", "--data", broker.data)
            assert "20 bad lines" in done.stdout and "line 20" in done.stderr
        return
    assert unpacked == plain.read_bytes()


# ---- one at a time ----

def test_the_second_of_two_says_who_writes(directory):
    rows = write_rows(directory / "in.jsonl", 6000, low=200, high=300)
    first = start("score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1", "--max-batch-tokens", "1024")
    wait_until(lambda: rows_done(directory / "out.assay/assay.db") > 0, 60)
    (directory / "link").symlink_to("out")
    for name in ("out", "link"):
        second = score(rows, directory / name, "--keep-input")
        assert second.returncode == 75 and f"process {first.pid}" in second.stderr, second.stderr
        assert f"the output '{directory / name}' is in use" in second.stderr
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60 * PATIENCE)
    assert first.returncode == 130


def test_a_directory_of_two_runs_is_named(directory):
    rows, data = write_rows(directory / "in.jsonl", 6000, low=200, high=300), directory / "d"
    first = start("score", rows, "-o", directory / "a", "--model", DEMO, "--threads", "1", "--data", data)
    wait_until(lambda: rows_done(data / "assay.db") > 0, 60)
    second = score(rows, directory / "b", "--data", data)
    assert second.returncode == 75 and f"process {first.pid}" in second.stderr, second.stderr
    assert f"the directory '{data}', where this run keeps its work," in second.stderr and ".lock" not in second.stderr
    first.kill()
    first.communicate(timeout=60 * PATIENCE)


# ---- waiting, and signals ----

class SilentBroker(threading.Thread):
    """What a broker says, by op; an op that is not there gets no answer."""

    def __init__(self, directory, **replies):
        super().__init__(daemon=True)
        self.data, self.replies, self.heard, self.over = directory, replies, [], False
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(f"ipc://{directory}/broker.sock")
        self.start()

    def run(self):
        import msgpack
        while not self.over:
            if not self.socket.poll(50):
                continue
            peer, body = self.socket.recv_multipart()
            request = msgpack.unpackb(body)
            self.heard.append(request["op"])
            reply = self.replies.get(request["op"])
            if reply is not None:
                self.socket.send_multipart([peer, msgpack.packb({"v": 1, "id": request["id"], **reply})])
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        self.join()


HELLO = {"ok": True, "models": [], "limits": {"max_message_bytes": 1 << 26}}
FULL = {"ok": False, "err": {"code": "queue_full", "message": "disk of /d: expected 9 bytes free, found 1", "retry_after_ms": 60000}}
UNKNOWN = {"ok": False, "err": {"code": "unknown_job", "message": "no job 'k'"}}
NOTHING = {"ok": True, "rows": [], "next": 0, "done": False}
PAUSED = {"ok": True, "job": 1, "key": "k\x1b", "state": "paused", "total": 5, "accepted": 5, "done": 1, "failed": 0, "queued": 4,
          "running": 0, "rate": 1.0, "eta_s": None}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["score", "submit"])
def test_a_full_queue_is_told_and_can_be_left(directory, rows, verb, how):
    (directory / "o").mkdir()
    arguments = ["--key", "k"] if verb == "submit" else ["-o", directory / "o/out"]
    with SilentBroker(directory, hello=HELLO, submit=FULL, results=NOTHING, status=UNKNOWN):
        process = start(verb, rows, *arguments, "--data", directory)
        assert "expected 9 bytes free, found 1" in process.stderr.readline()
        process.send_signal(how)
        words = process.communicate(timeout=20 * PATIENCE)[1]
        assert process.returncode == 128 + how and "expected 9" not in words
        done = run(verb, rows, *arguments, "--data", directory, "--no-wait")
        assert done.returncode == 75 and "expected 9 bytes free, found 1" in done.stderr
    assert not (directory / "o/out").exists()


def test_a_chunk_that_fills_memory_is_sent_again(directory):
    """Its lines are all that may be read ahead, so nothing more is read; it is still sent until the broker takes it."""
    (directory / "in.jsonl").write_text("".join(json.dumps({"text": f"{k}", "more": "x" * 150000}) + "\n" for k in range(300)))
    (directory / "o").mkdir()
    full = {**FULL, "err": {**FULL["err"], "retry_after_ms": 10}}
    with SilentBroker(directory, hello=HELLO, submit=full, results=NOTHING, status=UNKNOWN) as broker:
        process = start("score", directory / "in.jsonl", "-o", directory / "o/out", "--keep-input", "--data", directory)
        try:
            wait_until(lambda: broker.heard.count("submit") > 3)
        finally:
            process.kill()
            process.communicate()


def test_a_queue_that_has_room_again(directory, rows):
    """The same chunk is sent again, once there is room; the whole job arrives."""
    with SilentBroker(directory, submit={**FULL, "err": {**FULL["err"], "retry_after_ms": 10}}) as broker:
        process = start("submit", rows, "--key", "k", "--data", directory)
        wait_until(lambda: broker.heard.count("submit") > 3)
        broker.replies["submit"] = {"ok": True, "job": 1, "accepted": 20, "total": 20, "state": "queued"}
        out, words = process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 0 and "20 rows accepted" in out and words.count("waiting") == 1


@pytest.mark.parametrize("command", [("wait", "k"), ("results", "k", "--follow"), ("results", "k"), ("status", "k"), ("jobs",),
                                     ("purge", "k"), ("info",), ("cancel", "k"), ("status", "k", "--watch"), ("top",)])
def test_signals_while_nobody_answers(directory, command):
    with SilentBroker(directory) as broker:
        process = start(*command, "--data", directory, "--timeout", "3600")
        wait_until(lambda: broker.heard)
        process.terminate()
        process.communicate(timeout=20 * PATIENCE)
        assert process.returncode == 143


@pytest.mark.parametrize("command", [("wait", "k"), ("status", "k", "--watch"), ("results", "k", "--follow")])
def test_signals_while_nothing_happens(directory, command):
    with SilentBroker(directory, status=PAUSED, results=NOTHING) as broker:
        process = start(*command, "--data", directory)
        wait_until(lambda: broker.heard)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20 * PATIENCE)
        assert process.returncode == 130


def test_a_silent_broker_is_named(directory):
    with SilentBroker(directory):
        process = start("status", "k", "--data", directory)
        assert f"waiting for an answer from ipc://{directory}" in process.stderr.readline()
        process.kill()
        process.communicate()


def catches_signals(pid):
    caught = next(line for line in open(f"/proc/{pid}/status") if line.startswith("SigCgt"))
    return int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1


def test_input_that_does_not_come(directory):
    with SilentBroker(directory):
        process = subprocess.Popen([ASSAY, "submit", "-", "--key", "k", "--data", directory], stdin=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        wait_until(lambda: catches_signals(process.pid))
        process.terminate()
        process.wait(20 * PATIENCE)
        assert process.returncode == 143


def test_wait_says_what_blocks_a_job(directory):
    held = {**PAUSED, "reason": "made under another mode"}
    with SilentBroker(directory, status=PAUSED) as broker:
        done = run("wait", "k", "--data", directory, "--max-wait", "1")
        assert done.returncode == 75 and done.stderr.count("is paused; `assay resume") == 1 and "\x1b" not in done.stderr
        assert "not over after 1 s: it is paused" in done.stderr
        broker.replies["status"] = held
        done = run("wait", "k", "--data", directory, "--max-wait", "0")
        assert done.returncode == 75 and "held: made under another mode; `assay resume" in done.stderr
        assert "--accept-mode" in run("status", "k", "--data", directory).stdout


def test_a_paused_job_has_no_time_left(directory):
    with Broker(directory / "d", options=["--max-batch-tokens", 64]) as broker, broker.client() as client:
        client.submit("k", [{"ids": [k % 500, k // 500] * 40} for k in range(1200)])
        wait_until(lambda: client.call("status", job="k")["eta_s"] is not None)
        client.call("pause", job="k")
        status = client.call("status", job="k")
        assert status["state"] == "paused" and status["done"] < 1200 and status["rate"] > 0 and status["eta_s"] is None
        assert client.call("jobs")["jobs"][0]["eta_s"] is None
        process = start("wait", "k", "--data", broker.data)
        assert "is paused" in process.stderr.readline()
        client.call("resume", job="k")
        assert process.wait(240 * PATIENCE) == 0


# ---- what is done is kept ----

def test_the_first_batches_are_small(directory):
    """So the bar moves soon, and an interruption finds something to keep."""
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit("k", [{"ids": [k % 500] * 100} for k in range(300)])
        client.results("k")
        tokens = [row[0] for row in broker.sql("select tokens from batches order by batch")]
        assert tokens[0] <= 512 and tokens[1] <= 1024 and max(tokens) > 2048 and sum(tokens) == 30000


def test_interrupted_work_is_kept(directory):
    rows = write_rows(directory / "in.jsonl", 12000, low=200, high=300)
    process = start("score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1")
    wait_until(lambda: rows_done(directory / "out.assay/assay.db") > 0, 60)
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=60 * PATIENCE)[1]
    assert process.returncode == 130 and "same command again goes on" in words
    assert rows_done(directory / "out.assay/assay.db") > 0 and not (directory / "out").exists()


def test_a_terminal_that_hangs_up(directory):
    """The tests themselves may run under `nohup`."""
    rows = write_rows(directory / "in.jsonl", 4000, low=200, high=300)
    process = start("score", rows, "-o", directory / "out", "--model", DEMO, "--threads", "1",
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    wait_until(lambda: rows_done(directory / "out.assay/assay.db") > 0, 60)
    process.send_signal(signal.SIGHUP)
    words = process.communicate(timeout=60 * PATIENCE)[1]
    assert process.returncode == 128 + signal.SIGHUP and f"kept in {directory}/out.assay; the same command again goes on" in words


def test_without_a_terminal_to_hang_up(directory, rows):
    """What `nohup` has ignored stays so."""
    with SilentBroker(directory, status=PAUSED) as broker:
        process = start("wait", "k", "--data", directory, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        wait_until(lambda: broker.heard)
        process.send_signal(signal.SIGHUP)
        process.terminate()
        process.communicate(timeout=20 * PATIENCE)
        assert process.returncode == 143


@pytest.mark.parametrize("name, redirect", [("/dev/fd/3", "3>>"), ("/proc/self/fd/3", "3>>"), ("/dev/stderr", "2>>")])
def test_an_open_descriptor_is_written_where_it_stands(directory, name, redirect):
    """What its file holds already stays, and what is written to it afterwards follows."""
    rows, log = write_rows(directory / "in.jsonl", 3), directory / "log"
    log.write_text("precious line\n")
    done = subprocess.run(["bash", "-c", f'"{ASSAY}" score "{rows}" -o {name} --model "{DEMO}" --threads 1 {redirect} "{log}"'], timeout=60 * PATIENCE)
    lines = log.read_text().splitlines()
    assert done.returncode == 0 and lines[0] == "precious line" and [json.loads(line)["id"] for line in lines[1:]], lines
    assert len(lines) == 4
    script = f'exec 3>"{log}"; echo header >&3; "{ASSAY}" score "{rows}" -o /dev/fd/3 --model "{DEMO}" --threads 1; echo trailer >&3'
    subprocess.run(["bash", "-c", script], timeout=60 * PATIENCE, check=True)
    lines = log.read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("header", "trailer", 5)


def test_a_descriptor_that_only_reads_is_refused(directory):
    rows = write_rows(directory / "in.jsonl", 3)
    (directory / "other").write_text("precious\n")
    done = subprocess.run(["bash", "-c", f'"{ASSAY}" score "{rows}" -o /dev/fd/3 --model "{DEMO}" --threads 1 3< "{directory}/other"'],
                          capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 74 and "cannot write '/dev/fd/3'" in done.stderr and (directory / "other").read_text() == "precious\n"


@pytest.mark.parametrize("output", [(), ("-o", "/dev/stdout")])
def test_a_reader_that_has_seen_enough(directory, output):
    """As in `assay score .. | head -1`: the status of who wrote into the closed pipe, and a word of what is left."""
    rows = write_rows(directory / "in.jsonl", 4000, low=200, high=300)
    process = start("score", rows, *output, "--model", DEMO, "--threads", "1")
    assert json.loads(process.stdout.readline())["id"] == "row-0"
    process.stdout.close()
    words = process.stderr.read()
    assert process.wait(timeout=60 * PATIENCE) == 128 + signal.SIGPIPE, words
    kept = [name for name in os.listdir(directory) if name.endswith(".assay")]
    assert words.count("nobody reads the output") == 1
    assert [f"kept in {line.split('kept in ')[1]}" for line in words.splitlines() if "kept in" in line] == [
        f"kept in {rows}.assay; the same command again goes on from there"] and kept == ["in.jsonl.assay"]


def test_a_reader_of_a_pipe_that_has_seen_enough(directory):
    rows = write_rows(directory / "in.jsonl", 4000, low=200, high=300)
    pipe = directory / "pipe"
    os.mkfifo(pipe)
    process = start("score", rows, "-o", pipe, "--model", DEMO, "--threads", "1")
    with open(pipe) as reader:
        reader.readline()
    words = process.communicate(timeout=60 * PATIENCE)[1]
    assert process.returncode == 128 + signal.SIGPIPE and f"kept in {pipe}.assay" in words


def test_a_broker_goes_on_without_a_reader(directory):
    rows = write_rows(directory / "in.jsonl", 3000, low=200, high=300)
    with Broker(directory / "d", options=["--threads", "1"]):
        process = start("score", rows, "--data", directory / "d")
        process.stdout.readline()
        process.stdout.close()
        words = process.stderr.read()
        assert process.wait(timeout=60 * PATIENCE) == 128 + signal.SIGPIPE
        assert "the broker goes on with what it has" in words


def test_a_file_that_may_not_grow(directory):
    """`ulimit -f`: the signal that comes of it ends nothing without a word."""
    rows = write_rows(directory / "in.jsonl", 12000, low=4, high=9)
    with Broker(directory / "d"):
        process = start("score", rows, "-o", directory / "out", "--data", directory / "d",
                        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000)))
        words = process.communicate(timeout=60 * PATIENCE)[1]
        assert process.returncode == 128 + signal.SIGXFSZ and "ulimit -f" in words and "goes on" in words


# ---- stdout that takes nothing ----

@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("t"), model=MODELS / "demo-reward") as broker, broker.client() as client:
        client.submit("k", [{"text": "so"}])
        client.results("k")
        yield broker


@pytest.fixture
def full(directory):
    """A full device of its own."""
    node = directory / "full"
    try:
        os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
        open(node, "wb").close()
    except PermissionError:
        pytest.skip("device nodes need root")
    return node


PRINTED = [("assay", "--version"), ("assay", "--help"), ("assay", "score", "--help"), ("assay", "man"), ("assay", "man", "score"),
           ("assay", "completion", "bash"), ("assayd", "--version"), ("assayd", "--help"), ("assay-worker", "--help"),
           ("assay", "tokenize", "so", "--model", MODELS / "demo-reward"), ("assay", "tokenize", "so", "--json", "--model", MODELS / "demo-reward")]
ASKED = ["results k", "jobs", "jobs --json", "status", "status k", "status k --watch", "wait k", "wait k --json", "info", "info --json", "top",
         "top --json", "scrub", "scrub --json", "verify k", "verify k --json", "pause k", "resume k", "retry k", "cancel k", "purge --older-than 9d"]


@pytest.mark.parametrize("command", PRINTED, ids=lambda command: " ".join(map(str, command[:2])))
def test_what_could_not_be_printed_is_no_success(full, command):
    with open(full, "wb") as out:
        done = subprocess.run([BIN / command[0], *command[1:]], stdout=out, stderr=subprocess.PIPE, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 74 and done.stderr == f"{command[0]}: cannot write the output: No space left on device\n"
    closed = subprocess.run([BIN / command[0], *command[1:]], stderr=subprocess.PIPE, text=True, timeout=60 * PATIENCE, preexec_fn=lambda: os.close(1))
    assert closed.returncode == 74 and closed.stderr.startswith(f"{command[0]}: cannot write the output")


@pytest.mark.parametrize("command", ASKED)
def test_what_could_not_be_told_is_no_success(served, full, command):
    with open(full, "wb") as out:
        done = subprocess.run([ASSAY, *command.split(), "--data", served.data], stdout=out, stderr=subprocess.PIPE, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 74 and done.stderr.count("cannot write the output") == 1, done


# ---- where there is no home ----

@pytest.mark.parametrize("home", [None, "", "here"])
@pytest.mark.parametrize("command", [("status",), ("jobs",), ("scrub",), ("verify", "k"), ("submit", "in.jsonl", "--key", "k"), ("score", "in.jsonl")])
def test_no_home_is_named(directory, rows, home, command):
    env = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_STATE_HOME", "ASSAY_DATA")}
    done = run(*command, env=env if home is None else {**env, "HOME": home}, cwd=directory)
    assert done.returncode == 64 and done.stderr == "assay: data directory: expected --data, ASSAY_DATA, or XDG_STATE_HOME or HOME with an absolute path\n"
    assert os.listdir(directory) == ["in.jsonl"]


def test_a_home_or_state_home_is_enough(directory):
    env = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_STATE_HOME", "ASSAY_DATA")}
    for more, place in (({"HOME": "", "XDG_STATE_HOME": "/x"}, "/x/assay"), ({"HOME": "/x", "XDG_STATE_HOME": "x"}, "/x/.local/state/assay")):
        done = run("scrub", env={**env, **more}, cwd=directory)
        assert done.returncode == 66 and f"{place}/assay.db" in done.stderr


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_nothing_is_left_of_a_compressed_output_that_was_not_begun(directory, suffix):
    rows, out = write_rows(directory / "in.jsonl", 5), directory / f"out.{suffix}"
    assert run("score", rows, "-o", out, "--model", directory).returncode == 78
    assert {path.name for path in directory.iterdir()} == {"in.jsonl"}
    for _ in range(2):
        assert score(rows, out).returncode == 0
        assert {path.name for path in directory.iterdir()} == {"in.jsonl", out.name}


def test_a_file_that_is_mounted_by_itself(directory):
    """As by docker -v FILE:FILE. It cannot be replaced, which is found before anything is scored."""
    rows, out = write_rows(directory / "in.jsonl", 5), directory / "out"
    for path in (out, directory / "outside"):
        path.write_text("before\n")
    mount = f"mount --bind {directory}/outside {out} && exec \"$@\""
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", ASSAY, "score", str(rows), "-o", str(out), "--model", str(DEMO)]
    if subprocess.run([*command[:4], mount, "sh", "true"], capture_output=True).returncode != 0:
        pytest.skip("cannot mount a file here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert done.returncode == 64 and "mounted" in done.stderr, done.stderr
    assert {path.name for path in directory.iterdir()} == {"in.jsonl", "out", "outside"} and (directory / "outside").read_text() == "before\n"


@pytest.mark.parametrize("contents", ["", "\n\n"])
def test_an_input_without_rows_is_told(directory, contents):
    (directory / "in.jsonl").write_text(contents)
    done = score(directory / "in.jsonl", directory / "out")
    assert done.returncode == 0 and "no rows" in done.stderr and (directory / "out").read_bytes() == b"", done.stderr
