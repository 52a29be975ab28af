"""What cannot be, said at once and by its name: a job that is over, no permission, no room, a number that is none."""
import json
import os
import resource
import shutil
import subprocess

import pytest
from harness import BIN, DEMO, MODELS, PATIENCE, Broker, wait_until
from test_cli import run, write_rows
from test_cli_guards import without_override


@pytest.fixture
def rows(directory):
    return write_rows(directory / "in.jsonl", 1500)


def test_a_cancelled_job_takes_no_rows(directory):
    """Its chunks are acknowledged as they were, and no row will be scored."""
    rows = write_rows(directory / "in.jsonl", 1500, low=200, high=300)
    with Broker(directory / "d") as broker:
        data = ["--key", "k", "--data", broker.data]
        assert run("submit", rows, *data).returncode == 0
        assert run("cancel", "k", "--data", broker.data).stdout == "job 1: cancelled\n"
        for more in ([], ["--json"], ["--priority", "3"]):
            done = run("submit", rows, *data, *more)
            assert done.returncode == 65 and "job 'k' is cancelled" in done.stderr, done
            assert "accepted" not in done.stdout + done.stderr and done.stderr.count("\n") == 1
        assert run("score", rows, *data).returncode == 65


def test_a_priority_that_does_not_count(directory):
    rows = write_rows(directory / "in.jsonl", 3)
    with Broker(directory / "d") as broker:
        data = ["--key", "k7", "--data", broker.data]
        done = run("submit", rows, *data, "--priority", "7")
        assert done.returncode == 0 and done.stderr == ""
        done = run("submit", rows, *data, "--priority", "9")
        assert done.returncode == 0 and "--priority 9 is not applied" in done.stderr and "priority 7" in done.stderr, done
        assert run("submit", rows, *data, "--priority", "7").stderr == "" == run("submit", rows, *data).stderr


def without_caps():
    import ctypes
    without_override()
    ctypes.CDLL(None).prctl(24, 2, 0, 0, 0)  # nor CAP_DAC_READ_SEARCH


@pytest.mark.parametrize("verb", [["jobs"], ["status", "k"], ["verify", "k"], ["scrub"], ["top"], ["submit", "--key", "k"]])
def test_a_directory_that_one_may_not_enter(directory, rows, verb):
    (directory / "d").mkdir(mode=0)
    more = [rows] if verb[0] == "submit" else []
    try:
        done = run(*verb, *more, "--data", directory / "d", preexec_fn=without_caps)
        assert done.returncode == 77 and "Permission denied" in done.stderr and f"{directory}/d/" in done.stderr, done
        if verb == ["jobs"]:
            done = run(*verb, "--connect", f"ipc://{directory}/d/broker.sock", preexec_fn=without_caps)
            assert done.returncode == 77 and "Permission denied" in done.stderr
        if verb[0] != "submit":
            for variable, value in (("ASSAY_DATA", directory / "d"), ("ASSAY_ENDPOINT", f"ipc://{directory}/d/broker.sock")):
                done = run(*verb, env={**os.environ, variable: str(value)}, preexec_fn=without_caps)
                assert variable == "ASSAY_ENDPOINT" and verb[0] in ("verify", "scrub") or done.returncode == 77 and f" (from {variable}): Permission denied" in done.stderr, done
    finally:
        (directory / "d").chmod(0o700)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_a_broken_file_beside_the_tokenizer_is_named_at_once(directory, name):
    model, text = directory / "m", directory / "text.jsonl"
    shutil.copytree(MODELS / "demo-reward", model)
    text.write_text('{"text": "Hello"}\n')
    (model / name).write_text("")
    done = run("score", text, "-o", directory / "out", "--model", model)
    assert done.returncode == 78 and f"{model / name}: not JSON" in done.stderr, done.stderr
    assert {path.name for path in directory.iterdir()} == {"m", "text.jsonl"}
    if name == "tokenizer_config.json":
        return
    settings = json.loads((MODELS / "demo-reward/tokenizer_config.json").read_text())
    added = json.loads((model / "tokenizer.json").read_text())["added_tokens"]
    tokens = {str(token.pop("id")): token for token in added}
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": tokens}))
    done = run("score", text, "-o", directory / "out", "--model", model)
    assert done.returncode == 0, done.stderr  # then nobody reads it


def test_a_template_that_cannot_be_used_is_named(directory):
    """The rows are its errors, and so is what is said of them at the end."""
    model, text = directory / "m", directory / "text.jsonl"
    shutil.copytree(MODELS / "demo-reward", model)
    text.write_text('{"text": "Hello"}\n{"id": "a", "prompt": "Hello", "response": "you"}\n')
    (model / "chat_template.jinja").write_text("{% if %}")
    done = run("score", text, "-o", directory / "out", "--model", model)
    assert done.returncode == 1 and '1 failed; the first is row "a": response: ' in done.stderr, done.stderr
    assert "the chat template in chat_template.jinja cannot be used: line 1: " in done.stderr and "input or the checkpoint" in done.stderr


@pytest.mark.parametrize("value", ["99999999999999999999", "-99999999999999999999", "9223372036854775808"])
def test_a_number_beyond_all_numbers(value):
    done = run("results", "k", "--after", value, "--timeout", "1")
    assert done.returncode == 64 and f"--after: expected an integer from 0 to 9223372036854775807, found '{value}'" in done.stderr


def test_an_output_with_a_newline_is_named(directory, rows):
    done = run("score", rows, "-o", directory / "a\nb", "--model", DEMO)
    assert done.returncode == 64 and f"--output '{directory}/a?b'" in done.stderr, done.stderr
    named = rows.rename(directory / "in\n.jsonl")
    done = run("score", named, "--model", DEMO)
    assert done.returncode == 64 and "the input" in done.stderr, done.stderr
    assert [path.name for path in directory.iterdir()] == ["in\n.jsonl"]
    assert run("score", named, "-o", directory / "a\nb", "--model", DEMO, "--data", directory / "d").returncode == 0


def limited(program, *args, **limits):
    def limit():
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
    return subprocess.run([BIN / program, *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          preexec_fn=limit, timeout=60 * PATIENCE)


@pytest.mark.skipif("asan" in BIN.parts, reason="a sanitizer takes terabytes of addresses")
@pytest.mark.parametrize("program", ["assay", "assayd"])
def test_too_little_room_for_threads_is_said(directory, program):
    """At whichever limit libzmq would have ended the process."""
    args = ["jobs", "--data", directory, "--timeout", "1"] if program == "assay" else ["--model", DEMO, "--data", directory / "d"]
    for kib in range(12000, 48000, 4000):
        if program == "assay" or kib >= 36000:  # what the broker has before has words of its own
            done = limited(program, *args, RLIMIT_AS=kib * 1024)
            assert done.returncode >= 0 or done.returncode == -9, (kib, done)
            if "ulimit -v" in done.stderr:
                return
    raise AssertionError(done)


@pytest.mark.skipif("asan" in BIN.parts, reason="a sanitizer needs larger stacks")
def test_too_small_stacks_are_said(directory, rows):
    """The broker ended by SIGSEGV, and was started again, eleven times."""
    args = ["score", rows, "-o", directory / "out", "--model", DEMO]
    for kib in (96, 128, 256):
        done = limited("assay", *args, RLIMIT_STACK=kib << 10)
        assert done.returncode == 78 and f"found {kib}; raise `ulimit -s`" in done.stderr, (kib, done)
    assert limited("assay", *args, RLIMIT_STACK=512 << 10).returncode == 0


def test_too_few_descriptors_are_said(directory, rows):
    said = 0
    for n in range(6, 18, 2):
        done = limited("assay", "score", rows, "-o", directory / "out", "--data", directory / "d",
                       "--timeout", "1", RLIMIT_NOFILE=n)
        assert done.returncode > 0, (n, done)
        said += "ulimit -n" in done.stderr
    assert said > 0


@pytest.mark.parametrize(("tp", "replicas"), [(1, 1), (2, 2)])
def test_a_start_that_no_client_could_reach_is_refused(directory, tp, replicas):
    """Descriptors are kept back from clients: below some limit there was none for the first one."""
    for n in range(20, 200, 6):
        shutil.rmtree(directory / "d", ignore_errors=True)
        broker = Broker(directory / "d", options=["--tp", tp, "--replicas", replicas])
        broker.command = ["/bin/bash", "-c", f"ulimit -n {n}; exec \"$@\"", "bash", *broker.command]
        broker.start(wait=False)
        wait_until(lambda: broker.process.poll() is not None or "event=group_ready" in broker.words())
        if broker.process.poll() is None:
            break
        assert broker.process.returncode == 74 and "ulimit -n" in broker.words(), broker.words()
    with broker.client() as client:
        client.submit("k", [{"ids": [1, 2, 3]}])
        assert len(client.results("k")) == 1
    assert n > 40 and broker.stop() == 0


def test_the_exit_codes_of_the_broker():
    done = subprocess.run([BIN / "assayd", "--help"], capture_output=True, text=True)
    codes = done.stdout.split("Exit codes:")[1].replace(",", "").split()
    assert {"0", "64", "69", "70", "71", "72", "74", "75", "77", "78"} <= set(codes)
