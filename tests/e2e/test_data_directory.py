"""The data directory as it lies on the disk: whose it is, what was put into it, and what a start leaves behind."""
import os
import stat
import subprocess

import pytest
from harness import BIN, DEMO, PATIENCE, Broker, random_key

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


def test_everybody_may_write_above_it(directory):
    (directory / "open").mkdir()
    (directory / "open").chmod(0o777)
    assert_refused(directory / "open/d", f"{directory}/open", "everybody")
    (directory / "open").chmod(0o1777)  # as /tmp
    run_once(directory / "open/d")


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
    assert code == 78 and not data.exists(), said
    code, said = start(data, "--listen", "ipc:///proc/nowhere/broker.sock")
    assert code != 0 and not data.exists(), said
    data.mkdir(mode=0o700)  # what was there before stays
    code, said = start(data, model=directory / "nothing")
    assert code == 78 and data.exists(), said


def test_a_file_in_its_place(directory):
    (directory / "d").write_text("x")
    code, said = start(directory / "d")
    assert code == 74 and "no directory" in said and (directory / "d").read_text() == "x"
