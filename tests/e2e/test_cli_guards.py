"""What a command must not destroy: a broker's directory, the model, programs, files that are somebody else's."""
import ctypes
import os
import shutil
import signal
import stat
import struct
import subprocess

import pytest
from harness import BIN, DEMO, MODELS, Broker, wait_until
from test_cli import read_lines, rows_done, run, write_rows
from test_cli_outputs import EXPECTED, ids, start


def score(rows, output, *more, model=DEMO, **options):
    return run("score", rows, "-o", output, "--model", model, "--threads", "1", *more, **options)


def contents(directory):
    """Of every file, by its path; a data directory's change while a broker lives."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()}


@pytest.fixture
def rows(directory):
    return write_rows(directory / "in.jsonl", 20)


@pytest.mark.parametrize("how", ["stdout", "/dev/stdout", "named"])
def test_what_the_shell_opened_is_guarded_too(directory, rows, how):
    """`>> model/tokenizer.json`"""
    model = shutil.copytree(MODELS / "demo-reward", directory / "m")
    (directory / "rows.jsonl").write_text('{"text": "so"}\n')
    before = contents(model)
    with open(model / "tokenizer.json", "ab") as out:
        name = {"stdout": [], "/dev/stdout": ["-o", "/dev/stdout"], "named": ["-o", model / "tokenizer.json"]}[how]
        done = subprocess.run([BIN / "assay", "score", directory / "rows.jsonl", "--model", model, *name], stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 64 and "file of the checkpoint" in done.stderr, done
    assert contents(model) == before


def test_the_chat_template_is_no_output(directory):
    rows, template = directory / "rows.jsonl", directory / "t.jinja"
    rows.write_text('{"text": "so"}\n')
    template.write_text("{{ messages[0].content }}")
    for option in (template, f"{directory}/./t.jinja"):
        done = score(rows, template, "--chat-template", option, model=MODELS / "demo-reward")
        assert done.returncode == 64 and "chat template" in done.stderr, done
    assert template.read_text() == "{{ messages[0].content }}"


# ---- brokers' directories ----

def test_a_brokers_directory_is_no_place_for_an_output(directory, rows):
    """Of the broker that is asked, and of another that is not."""
    with Broker(directory / "d") as broker:
        (directory / "link").symlink_to(broker.data / "assay.db")
        for name in ("d/assay.db", "d/lock", "d/new", "d/assay.db-wal", "d/../d/assayd.log", "link"):
            for more in (["--data", broker.data], ["--connect", broker.endpoint], ["--model", DEMO]):
                done = run("score", rows, "-o", directory / name, *more)
                assert done.returncode == 64 and "data directory" in done.stderr and str(directory / "d") in done.stderr, done.stderr
        done = run("man", "--dir", broker.data)
        assert done.returncode == 64 and "data directory" in done.stderr
        assert broker.sql("pragma integrity_check") == [("ok",)]
        assert run("score", rows, "-o", directory / "out", "--data", broker.data).returncode == 0
    assert not list(directory.rglob("*.1")) and not list(directory.glob("*.assay"))
    done = score(rows, directory / "d/assay.db", "--data", directory / "d")  # nor after it has ended
    assert done.returncode == 64 and (directory / "d/assay.db").read_bytes()[:6] == b"SQLite"


def test_a_directory_of_this_run_is_none_either(directory, rows):
    (directory / "d").mkdir(mode=0o700)
    done = score(rows, directory / "d/out", "--data", directory / "d")
    assert done.returncode == 64 and "--data" in done.stderr and not list((directory / "d").iterdir())
    (directory / "l").mkdir()
    (directory / "l/lock").write_text("17\n")  # of a broker that starts
    assert score(rows, directory / "l/lock").returncode == 64 and (directory / "l/lock").read_text() == "17\n"
    assert score(rows, directory / "l/out").returncode == 0  # many programs have such a file


@pytest.mark.parametrize("what", ["input", "model", "worker"])
def test_what_is_read_is_not_in_the_directory_that_is_removed(directory, rows, what):
    work = directory / "out.assay"
    work.mkdir()
    (work / "score.lock").touch()
    model, more = DEMO, []
    if what == "input":
        rows = rows.rename(work / "lock")
    elif what == "model":
        shutil.copytree(DEMO, model := work / "model")
    else:
        shutil.copy(BIN / "assay-worker", work / "w")
        more = ["--worker", work / "w"]
    before = contents(directory)
    done = score(rows, directory / "out", *more, model=model)
    assert done.returncode == 64 and "where this run keeps its work" in done.stderr, done.stderr
    assert contents(directory) == before


@pytest.mark.parametrize("name", ["lock", "synced"])
def test_an_input_that_the_broker_would_write_to(directory, rows, name):
    (directory / "d").mkdir(mode=0o700)
    rows = rows.rename(directory / "d" / name)
    before = rows.read_bytes()
    assert score(rows, directory / "out", "--data", directory / "d").returncode == 64
    assert rows.read_bytes() == before


# ---- what a run reads ----

@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "link", "blob"])
def test_the_checkpoint_is_no_output(directory, rows, name):
    shutil.copytree(DEMO, model := directory / "mm")
    (model / "config.json").rename(directory / "blob")
    (model / "config.json").symlink_to(directory / "blob")
    (directory / "link").symlink_to(model / "model.safetensors")
    before = contents(directory)
    done = score(rows, directory / name if name in ("link", "blob") else model / name, model=model)
    assert done.returncode == 64 and "checkpoint" in done.stderr, done.stderr
    assert contents(directory) == before


def test_a_new_name_beside_the_checkpoint_is_an_output(directory, rows):
    shutil.copytree(DEMO, model := directory / "mm")
    for _ in range(2):  # also where it is there already
        done = score(rows, model / "out.jsonl", model=model)
        assert done.returncode == 0, done.stderr
        assert ids(model / "out.jsonl") == EXPECTED
    (model / "additional_chat_templates").mkdir()
    for name in ("special_tokens_map.json", "chat_template.jinja", "additional_chat_templates/tool.jinja"):
        done = score(rows, model / name, model=model)
        assert done.returncode == 64 and "would be read" in done.stderr and not (model / name).exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "added_tokens.json"])
def test_the_checkpoint_of_a_broker_is_no_output(directory, rows, name):
    shutil.copytree(DEMO, model := directory / "mm")
    before = contents(model)
    with Broker(directory / "d", model=model) as broker:
        done = run("score", rows, "-o", model / name, "--data", broker.data)
        assert done.returncode == 64 and "checkpoint" in done.stderr, done.stderr
        assert contents(model) == before
        assert run("score", rows, "-o", model / "out.jsonl", "--data", broker.data).returncode == 0


def test_a_program_is_no_output(directory, rows):
    shutil.copy(BIN / "assay-worker", directory / "w")
    before = contents(directory)
    done = score(rows, directory / "w", "--worker", directory / "w")
    assert done.returncode == 64 and "program" in done.stderr, done.stderr
    assert contents(directory) == before


# ---- what is somebody's ----

def without_override():
    """As other users, root may no longer write where permissions forbid it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        assert libc.prctl(24, 1, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def test_a_protected_output_is_kept(directory, rows):
    out = directory / "out"
    out.write_text("precious\n")
    out.chmod(0o444)
    done = score(rows, out, preexec_fn=without_override)
    assert done.returncode == 77 and "Permission denied" in done.stderr and str(out) in done.stderr, done.stderr
    assert out.read_text() == "precious\n" and stat.S_IMODE(out.stat().st_mode) == 0o444
    assert {path.name for path in directory.iterdir()} == {"in.jsonl", "out"}


def test_a_replaced_output_keeps_its_owner(directory, rows):
    out = directory / "out"
    out.write_text("old\n")
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(out, 65534, 65534)
    out.chmod(0o600)
    assert score(rows, out).returncode == 0 and ids(out) == EXPECTED
    assert (out.stat().st_uid, out.stat().st_gid, stat.S_IMODE(out.stat().st_mode)) == (65534, 65534, 0o600)
    write_rows(rows, 6000, low=200, high=300)
    process = start("score", rows, "-o", out, "--model", DEMO, "--threads", "1", "--max-batch-tokens", "1024")
    part = directory / "out.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 0, 60)
    process.send_signal(signal.SIGINT)  # what is left is still this user's, so the same command goes on
    process.communicate()
    assert process.returncode == 130
    write_rows(rows, 20)
    assert score(rows, out).returncode == 0 and ids(out) == EXPECTED and out.stat().st_uid == 65534


ACL = "system.posix_acl_access"


def acl(group, named, mask):
    """The owner may read and write, the file's group `group`, user 12345 `named`, both at most `mask`, others nothing."""
    entries = [(1, 6, -1), (2, named, 12345), (4, group, -1), (16, mask, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def test_a_replaced_output_keeps_its_access_list(directory, rows):
    """The group's bits of such a file are its mask: without the list the group would get what a named user has."""
    out, other = directory / "out", directory / "other"
    for path in (out, other):
        path.write_text("old\n")
        path.chmod(0o600)
    try:
        os.setxattr(out, ACL, acl(0, 6, 6))
    except OSError:
        pytest.skip("no access control lists here")
    assert stat.S_IMODE(out.stat().st_mode) == 0o660
    assert score(rows, out).returncode == 0 and ids(out) == EXPECTED
    assert os.getxattr(out, ACL) == acl(0, 6, 6) and stat.S_IMODE(out.stat().st_mode) == 0o660
    os.setxattr(directory, "system.posix_acl_default", acl(6, 6, 6))  # new files' list, which `other` has not
    assert score(rows, other).returncode == 0 and ids(other) == EXPECTED
    assert ACL not in os.listxattr(other) and stat.S_IMODE(other.stat().st_mode) == 0o600


def test_another_user_s_output_in_a_sticky_directory(directory, rows):
    """It could not be replaced once everything was scored."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    directory.chmod(0o1777)
    rows.chmod(0o644)
    out = directory / "out"
    out.write_text("precious\n")
    out.chmod(0o666)
    shutil.copytree(BIN, directory / "bin", ignore=lambda _, names: [name for name in names if not name.startswith("assay")])
    shutil.copytree(DEMO, directory / "model")
    done = subprocess.run([directory / "bin/assay", "score", rows, "-o", out, "--model", directory / "model", "--threads", "1"],
                          user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True)
    assert done.returncode == 77 and "another user's" in done.stderr, done.stderr
    assert out.read_text() == "precious\n" and not list(directory.glob("out.*"))


def has_attributes(directory):
    try:
        os.setxattr(directory, "user.assay.test", b"1")
    except OSError:
        return False
    os.removexattr(directory, "user.assay.test")
    return True


@pytest.mark.parametrize("text", ["precious\n", '{"id":1}\n'])
def test_a_part_that_is_no_run_s(directory, rows, text):
    if text[0] == "{" and not has_attributes(directory):
        pytest.skip("no extended attributes here")
    part = directory / "out.part"
    part.write_text(text)
    done = score(rows, directory / "out")
    assert done.returncode == 64 and str(part) in done.stderr, done.stderr
    assert part.read_text() == text and not (directory / "out.assay").exists()
    part.write_text("")  # there is nothing to lose
    assert score(rows, directory / "out").returncode == 0 and ids(directory / "out") == EXPECTED


def test_a_running_run_s_part_is_no_output(directory, rows):
    """Two runs, the second's output the file in which the first's is written: the first would publish the second's rows."""
    many = write_rows(directory / "many.jsonl", 3000, low=30, high=60)
    out, part = directory / "out", directory / "out.part"
    first = start("score", many, "-o", out, "--model", DEMO, "--threads", "1", "--max-batch-tokens", "1024")
    wait_until(lambda: part.exists() and part.stat().st_size > 0, 60)
    if has_attributes(directory):
        done = score(rows, part)
        assert done.returncode == 64 and "unfinished output of another run" in done.stderr, done.stderr
    rows.rename(part)  # whoever replaces it, it is not what the first wrote
    said = first.communicate()[1]
    assert first.returncode == 74 and f"another program replaced '{part}'" in said, said
    assert not out.exists() and len(read_lines(part)) == 20


def test_the_part_in_a_copied_directory(directory):
    """`cp -r` loses the mark: the file may be a run's, and what to do is said."""
    if not has_attributes(directory):
        pytest.skip("no extended attributes here")
    (directory / "a").mkdir()
    rows = write_rows(directory / "a/in.jsonl", 6000, low=200, high=300)
    process = start("score", rows, "-o", directory / "a/out", "--model", DEMO, "--threads", "1", "--max-batch-tokens", "1024")
    part = directory / "a/out.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 0, 60)
    process.kill()
    process.communicate()
    shutil.copyfile(part, directory / "out.part")
    write_rows(rows, 20)
    done = score(rows, directory / "out")
    assert done.returncode == 64 and "lacks such a run's mark" in done.stderr and "delete it if" in done.stderr, done.stderr
    (directory / "out.part").unlink()
    assert score(rows, directory / "out").returncode == 0 and ids(directory / "out") == EXPECTED


def test_the_part_of_a_killed_run_is_taken(directory):
    rows = write_rows(directory / "in.jsonl", 6000, low=200, high=300)
    out = directory / "out"
    process = start("score", rows, "-o", out, "--model", DEMO, "--threads", "1", "--max-batch-tokens", "1024")
    wait_until(lambda: (directory / "out.part").exists() and (directory / "out.part").stat().st_size > 0, 60)
    process.kill()
    process.communicate()
    assert (directory / "out.part").stat().st_size > 0
    write_rows(rows, 20)
    assert score(rows, out).returncode == 0 and ids(out) == EXPECTED
    assert not (directory / "out.part").exists()
    if has_attributes(directory):
        assert b"unfinished" not in [os.getxattr(out, name) for name in os.listxattr(out)]


def test_a_part_where_files_have_no_attributes(directory):
    """Then only the directory of a run beside it shows that a run left it."""
    place = directory / "r"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "ramfs", "ramfs", place], capture_output=True).returncode != 0:
        pytest.skip("cannot mount a file system without attributes")
    try:
        rows, part = write_rows(place / "in.jsonl", 20), place / "out.part"
        part.write_text('{"id": "mine", "prompt": "precious"}\n')
        done = score(rows, place / "out")
        assert done.returncode == 64 and str(part) in done.stderr and "precious" in part.read_text()
        (place / "out.assay").mkdir(mode=0o700)
        (place / "out.assay/score.lock").touch()
        assert score(rows, place / "out").returncode == 0 and ids(place / "out") == EXPECTED
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_directory_that_became_a_service_s_is_kept(directory, rows):
    """Jobs that others submitted to it are not removed with it."""
    assert score(rows, directory / "out", "--keep-data").returncode == 0
    data = directory / "out.assay"
    with Broker(data) as broker, broker.client() as client:
        client.submit("monday", [{"ids": [1, 2, 3]}])
        client.results("monday")
    write_rows(rows, 25)
    assert score(rows, directory / "out").returncode == 0 and len(read_lines(directory / "out")) == 25
    with Broker(data) as broker, broker.client() as client:
        assert len(client.results("monday")) == 1


@pytest.mark.parametrize("how", ["files", "link", "file"])
def test_a_directory_that_is_no_run_s(directory, rows, how):
    work = directory / "out.assay"
    if how == "files":
        work.mkdir(mode=0o755)
        (work / "notes.txt").write_text("mine")
    elif how == "link":
        (directory / "far").mkdir(mode=0o755)
        work.symlink_to("far")
    else:
        work.write_text("mine")
    before, mode = contents(directory), work.stat().st_mode
    done = score(rows, directory / "out")
    assert done.returncode == 64 and str(work) in done.stderr, done.stderr
    assert contents(directory) == before and work.stat().st_mode == mode and work.is_symlink() == (how == "link")
    assert score(rows, directory / "out", "--data", directory / "d").returncode == 0


def test_an_empty_directory_is_taken(directory, rows):
    (directory / "out.assay").mkdir()
    for _ in range(2):
        assert score(rows, directory / "out", "--force").returncode == 0
    assert ids(directory / "out") == EXPECTED
