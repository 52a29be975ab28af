"""The data directory as it lies on the disk: whose it is, what was put into it, and what a start leaves behind."""
import os
import shutil
import stat
import subprocess

import msgpack
import pytest
from harness import BIN, DEMO, PATIENCE, Broker, Refused, random_key

ROWS = [{"id": k, "ids": [k, 5, 6]} for k in range(20)]


def start(data, *options, model=DEMO):
    """A start that must fail: exit code and words."""
    done = subprocess.run([BIN / "assayd", "--model", model, "--data", data, *options], capture_output=True, text=True,
                          timeout=60 * PATIENCE)
    return done.returncode, done.stderr


def assert_refused(data, *words):
    code, said = start(data)
    assert code == 77, said
    last = said.strip().splitlines()[-1]
    assert "event=failed" in last and all(word in last for word in words), said


@pytest.mark.parametrize("name", ["b", "b/", "b//c", "./b"])
def test_a_relative_name(directory, name):
    """However short: where it is not there, it is made."""
    process = subprocess.Popen([BIN / "assayd", "--model", DEMO, "--data", name, "--exit-with-parent"], cwd=directory,
                               stderr=subprocess.PIPE, text=True)
    assert any("event=group_ready" in line for line in process.stderr)
    process.terminate()
    process.communicate(timeout=30 * PATIENCE)
    assert process.returncode == 0 and mode(directory / name) == 0o700 and (directory / name / "assay.db").exists()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def run_once(data):
    key = random_key()
    with Broker(data) as broker, broker.client() as client:
        client.submit(key, ROWS)
        assert len(client.results(key)) == len(ROWS)
    return broker


@pytest.mark.parametrize("name", ["lock", "digest.cache", "assay.db", "assay.db-wal", "reserve", "score-cache-0.db",
                                  "broker.sock", "twins-1.map", "assay.db.new", "anything"])
def test_a_link_in_it_is_not_followed(directory, name):
    precious = directory / "precious"
    precious.write_text("do not touch\n")
    data = directory / "d"
    data.mkdir(mode=0o700)
    (data / name).symlink_to(precious)
    assert_refused(data, f"d/{name}", "symbolic link")
    (data / name).unlink()
    os.link(precious, data / name)
    assert_refused(data, f"d/{name}", "hard link")
    assert precious.read_text() == "do not touch\n"
    assert sorted(p.name for p in data.iterdir()) == [name]


def test_others_may_not_write_to_it(directory):
    data = directory / "d"
    data.mkdir()
    data.chmod(0o777)
    assert_refused(data, "0777", "chmod 700")
    data.chmod(0o770)
    assert_refused(data, "0770")
    assert list(data.iterdir()) == []


def test_one_that_others_may_read_is_closed(directory):
    data = directory / "d"
    data.mkdir()
    data.chmod(0o755)
    run_once(data)
    assert mode(data) == 0o700
    data.chmod(0o755)  # a data directory that was copied without its mode
    assert "data_directory_closed" in run_once(data).words()
    assert mode(data) == 0o700


def test_somebody_s_folder_is_not_closed(directory):
    data = directory / "d"
    data.mkdir()
    data.chmod(0o755)
    (data / "thesis.tex").write_text("x")
    assert_refused(data, "0755", "not empty")
    assert mode(data) == 0o755 and [p.name for p in data.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["lock", "synced", "digest.cache", "twins-1.map", "assay.db-journal", "reserve"])
@pytest.mark.parametrize("by", ["assayd", "assay score"])
def test_somebody_s_file_of_a_broker_s_name_stays(directory, name, by):
    """In a folder where no broker has been, whatever its mode."""
    data = directory / "d"
    data.mkdir(mode=0o700)
    (data / name).write_text("precious\n")
    if by == "assayd":
        assert_refused(data, name, "no broker has been there")
    else:
        (directory / "in").write_text('{"input_ids": [1, 2]}\n')
        done = subprocess.run([BIN / "assay", "score", directory / "in", "--model", DEMO, "--data", data],
                              capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode != 0 and "no broker has been there" in done.stderr, done.stderr
        data.chmod(0o755)
        assert_refused(data, name)  # the client's log does not make it a data directory
        assert mode(data) == 0o755
    assert (data / name).read_text() == "precious\n"


def test_everybody_may_write_above_it(directory):
    (directory / "open").mkdir()
    (directory / "open").chmod(0o777)  # as a volume of a container: told
    assert "event=open_directory" in run_once(directory / "open/d").words()
    (directory / "open").chmod(0o1777)  # as /tmp
    assert run_once(directory / "open/d").words().count("event=open_directory") == 1
    if os.geteuid() == 0:
        (directory / "open").chmod(0o777)
        os.chown(directory / "open", 65534, 65534)
        assert_refused(directory / "open/d", f"{directory}/open", "everybody")


def test_a_link_of_one_s_own_leads_to_it(directory):
    (directory / "real").mkdir(mode=0o700)
    (directory / "d").symlink_to(directory / "real")
    run_once(directory / "d")
    assert (directory / "real/assay.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_what_is_another_user_s(directory):
    data = directory / "d"
    data.mkdir(mode=0o700)
    os.chown(data, 65534, 65534)
    assert_refused(data, "belongs to user 65534")
    os.chown(data, 0, 0)
    (data / "lock").write_text("")
    os.chown(data / "lock", 65534, 65534)
    assert_refused(data, "d/lock", "another user's")
    link = directory / "link"
    (data / "lock").unlink()
    link.symlink_to(data)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    assert_refused(link, "another user's symbolic link")


def test_a_start_that_fails_leaves_nothing(directory):
    data = directory / "a/d"
    code, said = start(data, model=directory / "nothing")
    assert code == 78 and not data.parent.exists(), said
    code, said = start(data, "--listen", "ipc:///proc/nowhere/broker.sock")
    assert code != 0 and not data.exists(), said
    data.mkdir(mode=0o700, parents=True)  # what was there before stays
    code, said = start(data, model=directory / "nothing")
    assert code == 78 and list(data.iterdir()) == [], said
    (data / "mine").write_text("x")
    code, said = start(data, model=directory / "nothing")
    assert code == 78 and (data / "mine").exists(), said


def test_a_start_that_fails_takes_nothing_from_another_broker(directory):
    data = directory / "d"
    with Broker(data) as broker, broker.client() as client:
        client.submit("a", ROWS)
        code, said = start(data)
        assert code == 75 and "held by another" in said, said
        assert len(client.results("a")) == len(ROWS)


def test_a_file_in_its_place(directory):
    (directory / "d").write_text("x")
    code, said = start(directory / "d")
    assert code == 74 and "no directory" in said and (directory / "d").read_text() == "x"


def remove(path):
    path.unlink()


def replace(path):
    shutil.copy(path, path.with_suffix(".copy"))
    os.rename(path.with_suffix(".copy"), path)


def move_folder(path):
    os.rename(path.parent, path.parent.with_suffix(".moved"))


@pytest.mark.parametrize("name, change", [("assay.db", remove), ("assay.db", replace), ("assay.db-wal", remove),
                                          ("assay.db-wal", replace), ("assay.db-shm", remove), ("lock", remove),
                                          ("assay.db", move_folder)])
def test_nothing_is_acknowledged_that_is_not_in_the_file_of_that_name(directory, name, change):
    broker = Broker(directory / "d")
    try:
        with broker.start().client() as client:
            client.submit("before", ROWS)
            client.results("before")
            log = open(broker.data / "assayd.log", "rb")
            client.submit("open", None, chunk=1)  # chunk 0 is missing
            client.socket.send(msgpack.packb({"v": 1, "op": "results", "id": 1000, "job": "open", "wait_ms": 60000}))
            client.call("status", job="open")  # so the one before waits
            change(broker.data / name)
            with broker.client() as other, pytest.raises((Refused, TimeoutError)) as refused:
                other.submit("after", ROWS, timeout=3)  # nobody hears it when the broker has noticed before
            assert refused.type is TimeoutError or refused.value.code == "not_ready" and name in str(refused.value)
            reply = client.receive()
            assert reply["id"] == 1000 and reply["err"]["code"] == "not_ready" and name in reply["err"]["message"]
            assert broker.process.wait(30 * PATIENCE) == 72
        words = log.read().decode()
        assert "event=database_gone" in words and name in words, words
        assert ("replaced" if change is replace else "removed") in words
    finally:
        broker.__exit__()
    if name != "assay.db":  # what was acknowledged is in the database, or in the log that is there
        with broker, broker.client() as client:
            assert len(client.results("before")) == len(ROWS)


@pytest.mark.parametrize("keep", [0, 3])
def test_nothing_is_acknowledged_in_a_database_that_was_cut(directory, keep):
    broker = Broker(directory / "d")
    try:
        with broker.start().client() as client:
            client.submit("before", ROWS)
            client.results("before")
            size = (broker.data / "assay.db").stat().st_size
            os.truncate(broker.data / "assay.db", size * keep // 4)
            with pytest.raises((TimeoutError, Refused), match="no reply|not_ready: .*the broker ends"):
                client.submit("after", ROWS, timeout=3)
            assert broker.process.wait(30 * PATIENCE) == 72
        assert "event=database_gone" in broker.words() and "was cut from" in broker.words()
    finally:
        broker.__exit__()


def test_an_idle_broker_notices_too(directory):
    broker = Broker(directory / "d").start()
    (broker.data / "assay.db").unlink()
    assert broker.process.wait(30 * PATIENCE) == 72


def test_a_log_without_its_database_is_not_thrown_away(directory):
    broker = Broker(directory / "d").start()
    with broker.client() as client:
        client.submit("a", ROWS)
    broker.kill9()
    database, aside = broker.data / "assay.db", directory / "aside"
    os.rename(database, aside)
    code, said = start(broker.data)
    assert code == 78 and "put assay.db back" in said, said
    os.rename(aside, database)
    with broker, broker.client() as client:
        assert len(client.results("a")) == len(ROWS)


def deep(directory, length):
    """A path of that length in the directory, whose last part is not there yet."""
    path = str(directory) + "/"
    while length - len(path) > 60:
        path += "x" * 49 + "/"
    path += "d" * (length - len(path))
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path


def assay(*arguments):
    done = subprocess.run([BIN / "assay", *arguments], capture_output=True, text=True, timeout=120 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("length", [80, 90, 92, 95, 96, 108, 250])
def test_its_path_may_be_long(directory, length):
    """A socket's path has at most 107 bytes: of events.sock, broker.sock and the ranks' here, each passes that at another length."""
    data, rows = deep(directory, length), directory / "rows.jsonl"
    rows.write_text('{"input_ids": [1, 2, 3]}\n' * 3)
    broker = Broker(data)
    try:
        broker.start(wait=False)
        assay("submit", rows, "--key", "k", "--data", data, "--timeout", "60")
        assay("wait", "k", "--data", data)
        assert len(assay("results", "k", "--data", data).splitlines()) == 3
        for pid in broker.worker_pids():
            os.kill(pid, 9)  # and the next ones find it too
        assay("submit", rows, "--key", "again", "--data", data)
        assay("wait", "again", "--data", data)
        assert broker.stop() == 0, broker.words()
        assert [name for name in os.listdir(data) if name.startswith("group-")] == []
    finally:
        broker.__exit__()
    out = deep(directory, length + 2)
    assay("score", rows, "-o", out, "--model", DEMO)
    assert len(open(out).read().splitlines()) == 3
