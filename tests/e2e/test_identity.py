"""What a rank has mapped is what the digest says: checkpoints that are replaced, overwritten, touched or switched while a
broker runs. Whatever happens, no row of a job has the score of another model."""
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from harness import BIN, DEMO, MODELS, PATIENCE, Broker, random_key, wait_until

ROWS = [{"id": k, "ids": [k % 500, k // 500] + [20 + k % 7] * 20} for k in range(2000)]


def copy_model(to, seed=None):
    """The demo's checkpoint; with a seed other weights of the same shape."""
    shutil.copytree(DEMO, to)
    if seed is not None:
        overwrite(to / "model.safetensors", other_weights(seed))
    return to


def other_weights(seed):
    """The last bytes of the file, the ends of the last tensors, as they are in no other model: still small numbers."""
    rng, data = random.Random(seed), bytearray((DEMO / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    words = list(range(header + (-header % 4) + 4, len(data) - 8, 4))
    for at in rng.sample(words, len(words) // 3):
        data[at + 1 : at + 2] = rng.randbytes(1)  # the mantissa's middle: no sign, no exponent
    return bytes(data)


def overwrite(path, data):
    with open(path, "r+b") as file:
        file.write(data)


def replace(path, data):
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.rename(part, path)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The scores of the demo, by mode."""
    known = {}

    def scores(options):
        key = tuple(options)
        if key not in known:
            with Broker(tmp_path_factory.mktemp("truth"), options=options) as broker, broker.client() as client:
                found = client.call("score", rows=ROWS, timeout_ms=60000, timeout=90)["rows"]
                known[key] = {row["i"]: row["score"] for row in found}
        return known[key]

    return scores


def begin(broker, client, key):
    """A job that runs, with most of it to do."""
    client.submit(key, ROWS)
    wait_until(lambda: client.call("status", job=key)["done"] > 100, 60)


def kill_ranks(broker):
    for pid in broker.worker_pids():
        with contextlib.suppress(ProcessLookupError):  # with the first of a group go the others
            os.kill(pid, signal.SIGKILL)


def shown(broker):
    return {i: score for i, score in broker.sql("select i, score from results where error_code is null")}


def assert_ended(broker, word):
    assert broker.process.wait(60 * PATIENCE) == 78, broker.words()
    last = broker.words().strip().splitlines()[-1]
    assert "event=failed" in last and word in last and "restart" in last, broker.words()


def assert_true_scores(found, right):
    wrong = [i for i, score in found.items() if score != right[i]]
    assert wrong == [], f"{len(wrong)} of {len(found)} rows have another model's score"


SLOW = ["--max-batch-tokens", "128"]


@pytest.mark.parametrize("options", [[], ["--tp", "2"], ["--quant", "int8"]])
@pytest.mark.parametrize("change", [replace, overwrite])
def test_replaced_while_a_job_runs(directory, truth, options, change):
    right = truth(options)
    model, key = copy_model(directory / "m"), random_key()
    broker = Broker(directory / "d", model, SLOW + options)
    with broker, broker.client() as client:
        begin(broker, client, key)
        change(model / "model.safetensors", other_weights(1))
        if change is replace:
            kill_ranks(broker)
        assert_ended(broker, "digest")
        found = shown(broker)
        assert 0 < len(found) < len(ROWS)
        assert_true_scores(found, right)
    with broker, broker.client() as client:  # the new model: the job is held, with the reason
        status = client.call("status", job=key)
        assert status["state"] == "paused" and "checkpoint" in status["reason"]
    change(model / "model.safetensors", (DEMO / "model.safetensors").read_bytes())
    with broker, broker.client() as client:  # the old one: it goes on
        found = client.results(key, timeout=90)
        assert len(found) == len(ROWS)
        assert_true_scores({row["i"]: row["score"] for row in found}, right)


@pytest.mark.parametrize("change", [replace, overwrite, lambda path, _: os.utime(path)], ids=["copied", "written", "touched"])
def test_the_same_contents_go_on(directory, truth, change):
    right = truth([])
    model, key = copy_model(directory / "m"), random_key()
    with Broker(directory / "d", model, [*SLOW, "--tp", "1"]) as broker, broker.client() as client:
        begin(broker, client, key)
        before = broker.worker_pids()
        for _ in range(3):  # each ends the rank, and no row of the batch is to blame
            change(model / "model.safetensors", (DEMO / "model.safetensors").read_bytes())
            done = client.call("status", job=key)["done"]
            wait_until(lambda: client.call("status", job=key)["done"] > min(done + 20, len(ROWS) - 1), 60)
        found = client.results(key, timeout=90)
        assert_true_scores({row["i"]: row["score"] for row in found}, right)
        assert len(found) == len(ROWS) and not set(before) & set(broker.worker_pids())
        assert b"checkpoint_touched" in (directory / "d/assayd.log").read_bytes()


def test_a_link_that_is_turned_changes_nothing(directory, truth):
    right = truth([])
    model, other, link, key = copy_model(directory / "a"), copy_model(directory / "b", 1), directory / "m", random_key()
    link.symlink_to(model)
    with Broker(directory / "d", link, SLOW) as broker, broker.client() as client:
        assert client.call("hello")["model"]["name"] == "m"
        begin(broker, client, key)
        (directory / "new").symlink_to(other)
        os.rename(directory / "new", link)
        kill_ranks(broker)
        found = client.results(key, timeout=90)
        assert len(found) == len(ROWS)
        assert_true_scores({row["i"]: row["score"] for row in found}, right)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "added.safetensors"])
def test_every_file_that_the_digest_is_of(directory, name):
    model = copy_model(directory / "m")
    with Broker(directory / "d", model) as broker:
        pid = wait_until(lambda: broker.worker_pids())[0]
        path = model / name
        path.write_bytes((path.read_bytes() if path.exists() else b"{}") + b"\n")
        os.kill(pid, signal.SIGKILL)
        assert_ended(broker, "digest")


def test_a_checkpoint_that_vanishes(directory):
    model = copy_model(directory / "m")
    with Broker(directory / "d", model) as broker:
        pid = wait_until(lambda: broker.worker_pids())[0]
        shutil.rmtree(model)
        os.kill(pid, signal.SIGKILL)
        assert broker.process.wait(60 * PATIENCE) == 78
        assert str(model) in broker.words().strip().splitlines()[-1]


def test_the_cache_keeps_no_score_of_another_model(directory, truth):
    right = truth([])
    model, options = copy_model(directory / "m"), [*SLOW, "--score-cache", "64M"]
    broker, key = Broker(directory / "d", model, options), random_key()
    with broker, broker.client() as client:
        begin(broker, client, key)
        overwrite(model / "model.safetensors", other_weights(1))
        assert_ended(broker, "digest")
    overwrite(model / "model.safetensors", (DEMO / "model.safetensors").read_bytes())
    with broker, broker.client() as client:
        again = random_key()
        client.submit(again, ROWS)
        found = client.results(again, timeout=90)
        assert len(found) == len(ROWS) and client.call("status", job=again)["cached"] > 0
        assert_true_scores({row["i"]: row["score"] for row in found}, right)


def test_a_file_cut_short_under_a_running_job(directory, truth):
    """The rank dies of reading what is not there (SIGBUS); no row is to blame, and none is wrong."""
    right = truth([])
    model, key = copy_model(directory / "m"), random_key()
    broker = Broker(directory / "d", model, SLOW)
    with broker, broker.client() as client:
        begin(broker, client, key)
        os.truncate(model / "model.safetensors", 4096)
        assert_ended(broker, "digest")
        assert broker.sql("select count(*) from results where error_code is not null") == [(0,)]
        assert_true_scores(shown(broker), right)


WHEN = {"first start": ("", 'case "$*" in *--describe*) ;; *) {change};; esac; exec {worker} "$@"'),
        "description": ("started", '{worker} "$@"; code=$?; {change}; exit $code')}


@pytest.mark.parametrize("when", WHEN)
def test_changed_between_the_digest_and_what_is_read(directory, when):
    model, (word, script) = copy_model(directory / "m"), WHEN[when]
    (model / "tokenizer.json").write_text("{}")
    worker = directory / "worker.sh"
    worker.write_text("#!/bin/sh\n" + script.format(worker=BIN / "assay-worker", change=f"echo >> {model}/tokenizer.json") + "\n")
    worker.chmod(0o755)
    broker = Broker(directory / "d", model, worker=worker)
    broker.start(wait=False)
    assert_ended(broker, word)


# ---- the files beside the tokenizer ----

def mode_of(directory, model):
    with Broker(directory / random_key(), model=model) as broker, broker.client() as client:
        return client.call("hello")["mode"]


def test_a_file_that_moves_is_another(directory):
    """The same bytes under the same name, in the folder of templates: there it is no added_tokens.json."""
    model = shutil.copytree(MODELS / "demo-reward", directory / "m")
    (model / "added_tokens.json").write_text('{"3 +": 299}')
    before = mode_of(directory, model)
    (model / "additional_chat_templates").mkdir()
    (model / "added_tokens.json").rename(model / "additional_chat_templates/added_tokens.json")
    assert mode_of(directory, model) != before


def test_side_files_that_change_while_they_are_read(directory):
    """They are hashed, then read: what lies between must not be served under the old name. Files without end widen it."""
    model = shutil.copytree(MODELS / "demo-reward", directory / "m")
    folder = model / "additional_chat_templates"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.txt").touch()
        os.truncate(folder / f"{i}.txt", 64 << 20)
    path = model / "tokenizer_config.json"
    old = path.read_text()
    config = json.loads(old)
    config["extra_special_tokens"] = ["3 +"]
    modes, tokens, refused = {}, {}, 0
    for k, text in enumerate([old, json.dumps(config)]):
        path.write_text(text)
        with Broker(directory / f"d{k}", model=model) as broker, broker.client() as client:
            modes[k] = client.call("hello")["mode"]
            tokens[k] = client.call("score", rows=[{"prompt": "3 + 4 = ?", "response": "7"}])["rows"][0]["n_tokens"]
    assert modes[0] != modes[1] and tokens[0] != tokens[1]
    for delay in (0.05, 0.1, 0.2, 0.3, 0.4, 0.6):
        path.write_text(old)
        broker = Broker(directory / f"at{delay}", model=model)
        broker.start(wait=False)
        time.sleep(delay)
        replace(path, json.dumps(config).encode())
        with contextlib.suppress(subprocess.TimeoutExpired):
            refused += broker.process.wait(5 * PATIENCE) == 78 and "changed while the broker started" in broker.words()
        if broker.process.poll() is None:
            with broker.client() as client:
                now = client.call("hello", timeout=30)["mode"]
                n = client.call("score", rows=[{"prompt": "3 + 4 = ?", "response": "7"}])["rows"][0]["n_tokens"]
            broker.process.terminate()
            broker.process.wait()
            assert tokens[[k for k in modes if modes[k] == now][0]] == n
        broker.log.close()
    print(f"{refused} of 6 starts refused")
