"""Adapters that are added and removed while the broker runs: jobs wait for theirs alone, no row ever gets another's score, and kills
at any moment leave a list that is whole."""
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import msgpack
import pytest
import zmq
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, Refused, wait_until

LORA = MODELS / "lora"
NAMES = ("all", "attention", "half")
LAST = {"type": "LAST", "activation": "none"}


def options(*names):
    return [word for name in names for word in ("--lora", f"{name}={LORA / f'reward-{name}'}")]


def broker(directory, *more):
    return Broker(directory, model=MODELS / "reward", options=list(more))


def add(client, name, directory=None):
    return client.call("adapter_add", name=name, dir=str(directory or LORA / f"reward-{name}"), timeout=120)


def listed(client):
    names = [a["name"] for a in client.call("adapters")["adapters"]]
    assert names == [a["name"] for a in client.call("hello")["model"]["adapters"]] == sorted(names)
    return names


def rows_of(name, n=40, seed=1, length=40):
    rng = random.Random(seed)
    return [{"id": k, "ids": [rng.randrange(500) for _ in range(length)], "pool": LAST, **({"adapter": name} if name else {})} for k in range(n)]


def scores(client, rows):
    found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
    assert all(row["error"] is None for row in found), found
    return [row["score"] for row in found]


@pytest.fixture(scope="module")
def truths(tmp_path_factory):
    """By ranks and by adapter (and None): the scores of rows_of, by a broker that was started with all of them."""
    found = {}
    for tp in (1, 2):
        with broker(tmp_path_factory.mktemp("truth"), *options(*NAMES), "--tp", tp) as b, b.client() as client:
            found[tp] = {name: scores(client, rows_of(name)) for name in (None, *NAMES)}
        assert len({tuple(v) for v in found[tp].values()}) == 4
    return found


@pytest.fixture
def truth(truths):
    return truths[1]


@pytest.mark.parametrize("more", [[], ["--tp", 2], ["--replicas", 2]])
def test_added_and_removed(directory, truths, more):
    truth = truths[2 if "--tp" in more else 1]
    with broker(directory, *more) as b, b.client() as client:
        assert listed(client) == []
        found = client.call("score", rows=rows_of("half", 1), timeout_ms=30000)["rows"]
        assert found[0]["error"]["code"] == "unknown_adapter"
        added = add(client, "half")
        assert added["name"] == "half" and len(added["digest"]) == 64
        assert add(client, "half")["digest"] == added["digest"]  # again: the same
        assert scores(client, rows_of("half")) == truth["half"] and scores(client, rows_of(None)) == truth[None]
        add(client, "all")
        assert listed(client) == ["all", "half"]
        for name in ("all", "half", None):
            assert scores(client, rows_of(name)) == truth[name]
        client.call("adapter_remove", name="half")
        assert listed(client) == ["all"]
        found = client.call("score", rows=rows_of("half", 1), timeout_ms=30000)["rows"]
        assert found[0]["error"]["code"] == "unknown_adapter"
        assert scores(client, rows_of("all")) == truth["all"]
        for request in (dict(op="adapter_remove", name="half"), dict(op="adapter_remove", name="none")):
            with pytest.raises(Refused) as refused:
                client.call(**request)
            assert refused.value.err["code"] == "unknown_adapter" and request["name"] in refused.value.err["message"]


def test_a_replica_serves_while_another_loads(directory, truth):
    with broker(directory, "--replicas", 2) as b, b.client() as client, b.client() as other:
        wait_until(lambda: [w["state"] for w in client.call("info")["workers"]] == ["ready", "ready"], 60)
        states, stop = [], threading.Event()

        def look():
            while not stop.is_set():
                states.append([w["state"] for w in other.call("info")["workers"]])
        thread = threading.Thread(target=look)
        thread.start()
        try:
            add(client, "half")
        finally:
            stop.set()
            thread.join()
        assert all("ready" in both for both in states) and any(both[0] != "ready" for both in states), states
        assert any(both[1] != "ready" for both in states), states
        assert scores(client, rows_of("half")) == truth["half"]


def test_another_directory_under_a_name(directory, truth):
    """What the name meant before waits, and is not scored by the new one unless somebody says so."""
    with broker(directory, *options("half")) as b, b.client() as client:
        with pytest.raises(Refused) as refused:
            add(client, "half", LORA / "reward-all")
        assert refused.value.err["code"] == "wrong_state" and "other contents" in refused.value.err["message"]
        client.submit("job", rows_of("half", 3000, length=100))
        wait_until(lambda: client.call("status", job="job")["done"] > 20, 60)
        client.call("adapter_remove", name="half")
        for pid in b.worker_pids():  # what they have in hand comes back, and waits with the rest
            os.kill(pid, signal.SIGKILL)
        status = client.call("status", job="job")
        assert status["state"] == "paused" and "adapter half (" in status["reason"] and "none of that name" in status["reason"]
        with pytest.raises(Refused) as refused:
            client.call("submit", key="job", chunk=7, rows=rows_of(None, 1))
        assert refused.value.err["code"] == "wrong_state"
        assert scores(client, rows_of(None)) == truth[None]  # other jobs go on
        add(client, "half", LORA / "reward-all")
        assert "the broker has half (" in client.call("status", job="job")["reason"]
        assert scores(client, rows_of("half")) == truth["all"]
        wait_until(lambda: client.call("status", job="job")["running"] == 0, 60)
        done = client.call("status", job="job")["done"]
        client.call("adapter_remove", name="half")
        add(client, "half")
        assert client.call("status", job="job")["state"] in ("queued", "running")
        found = client.results("job", timeout=200)
        assert 20 < done < 3000 and len(found) == 3000 and all(row["error"] is None for row in found)
    with broker(directory / "again", *options("half")) as b, b.client() as client:
        client.submit("job", rows_of("half", 3000, length=100))
        assert {row["i"]: row["score"] for row in client.results("job", timeout=200)} == {row["i"]: row["score"] for row in found}


def test_the_same_contents_in_another_place(directory, truth):
    """Adding them again takes the new directory: the old one may go."""
    for name in ("old", "new"):
        shutil.copytree(LORA / "reward-half", directory / name)
    with broker(directory / "d") as b, b.client() as client:
        add(client, "half", directory / "old")
        add(client, "half", directory / "new")
        assert [a["dir"] for a in client.call("adapters")["adapters"]] == [str(directory / "new")]
        shutil.rmtree(directory / "old")
        for pid in b.worker_pids():
            os.kill(pid, signal.SIGKILL)
        assert scores(client, rows_of("half")) == truth["half"]


def test_a_check_that_takes_long_does_not_hold_up_the_end(directory):
    shutil.copytree(LORA / "reward-half", directory / "a")
    os.truncate(directory / "a/adapter_model.safetensors", 1 << 40)  # sparse: minutes of reading
    with broker(directory / "d") as b, b.client() as client:
        ranks = len(b.worker_pids())
        client.socket.send(msgpack.packb({"v": 1, "op": "adapter_add", "id": 1, "name": "half", "dir": str(directory / "a")}))
        wait_until(lambda: len(b.worker_pids()) > ranks, 20)
        os.kill(b.process.pid, signal.SIGTERM)
        assert b.process.wait(20 * PATIENCE) == 0


def test_who_waits_is_told(directory, truth):
    """`score` under way for an adapter that is removed is answered at once; under its key it goes on when the adapter is there."""
    rows = rows_of("half", 3000, length=100)
    with broker(directory, *options("half")) as b, b.client() as waiting, b.client() as client:
        answers = []

        def wait():
            try:
                answers.append(waiting.call("score", rows=rows, key="mine", timeout_ms=600000, timeout=600))
            except Refused as refused:
                answers.append(refused.err)
        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: any(job["key"] == "mine" and job["done"] > 20 for job in client.call("jobs")["jobs"]), 60)
        client.call("adapter_remove", name="half")
        thread.join(30 * PATIENCE)
        assert answers[0]["code"] == "wrong_state" and "adapter half (" in answers[0]["message"], answers
        add(client, "half")
        assert scores(client, rows_of("half")) == truth["half"]
        found = client.call("score", rows=rows, key="mine", timeout_ms=200000, timeout=300)["rows"]
        assert len(found) == 3000 and all(row["error"] is None for row in found)


def test_directories_that_are_refused(directory):
    """And the broker goes on as before."""
    directory.mkdir(exist_ok=True)
    shutil.copytree(LORA / "reward-all", directory / "bad")
    config = directory / "bad/adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    with broker(directory / "data") as b, b.client() as client:
        pids = b.worker_pids()
        for name, where, field, word in (("a", LORA / "seqcls-linear", "dir", "model.score"), ("a", directory / "none", "dir", "adapter_config.json"),
                                         ("a", directory / "bad", "dir", "use_dora"), ("a", "relative", "dir", "absolute path"),
                                         ("a b", LORA / "reward-all", "name", "letters")):
            with pytest.raises(Refused) as refused:
                add(client, name, where)
            assert refused.value.err["code"] == "bad_request" and refused.value.err["field"] == field and word in refused.value.err["message"]
        assert listed(client) == [] and b.worker_pids() == pids


@pytest.mark.parametrize("change", ["gone", "other"])
def test_an_adapter_whose_files_went(directory, truth, change):
    """Its ranks have a copy. Nothing is added that would have them start without it."""
    directory.mkdir(exist_ok=True)
    shutil.copytree(LORA / "reward-half", directory / "half")
    with broker(directory / "data") as b, b.client() as client:
        add(client, "half", directory / "half")
        pids = b.worker_pids()
        shutil.rmtree(directory / "half")
        if change == "other":
            shutil.copytree(LORA / "reward-attention", directory / "half")
        with pytest.raises(Refused) as refused:
            add(client, "all")
        message = refused.value.err["message"]
        assert refused.value.err["code"] == "bad_request" and ("/half" in message if change == "gone" else "'half' was changed" in message), message
        assert b.worker_pids() == pids and scores(client, rows_of("half")) == truth["half"]
        client.call("adapter_remove", name="half")
        add(client, "all")
        assert scores(client, rows_of("all")) == truth["all"] and listed(client) == ["all"]


def test_a_start_has_those_of_its_options(directory, truth):
    """A job whose adapter was added at run time waits over a restart until it is added again."""
    b = broker(directory)
    with b:
        with b.client() as client:
            add(client, "half")
            client.submit("job", rows_of("half", 3000, length=100))
            wait_until(lambda: client.call("status", job="job")["done"] > 20, 60)
        b.kill9()
        b.start()
        with b.client() as client:
            assert listed(client) == [] and "adapter half" in client.call("status", job="job")["reason"]
            assert b.sql("select state from jobs where key = 'job'") == [("paused",)]
            add(client, "half")
            found = client.results("job", timeout=200)
            assert len(found) == 3000 and all(row["error"] is None for row in found)


def test_killed_while_adapters_come_and_go(directory, truths):
    """Ranks are killed at random while adapters are added and removed and rows are scored. Every addition is there or refused, and a
    score is that of its adapter or an error that says which adapter was not there."""
    b, stop, rng, truth = broker(directory, "--tp", 2), threading.Event(), random.Random(5), truths[2]

    def kill():
        while not stop.wait(rng.uniform(0.3, 2.5)):
            for pid in b.worker_pids()[:rng.randrange(3)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with b:
        with b.client() as client, b.client() as other:
            client.submit("base", rows_of(None, 4000))
            killer = threading.Thread(target=kill)
            killer.start()
            try:
                end, n_added, n_scored = time.monotonic() + 25 * PATIENCE, 0, 0
                while time.monotonic() < end and (n_added < 6 or n_scored < 3):
                    name = rng.choice(NAMES)
                    try:
                        if name in listed(client):
                            client.call("adapter_remove", name=name)
                            assert name not in listed(client)
                        else:
                            add(client, name)
                            n_added += 1
                            assert name in listed(client)
                    except Refused as refused:
                        assert refused.err["code"] == "internal" and "a worker ended" in refused.err["message"], refused.err
                        assert name not in listed(client)
                    for row, right in zip(other.call("score", rows=rows_of(name), timeout_ms=60000, timeout=90)["rows"], truth[name]):
                        if row["error"]:
                            assert row["error"]["code"] == "unknown_adapter"
                        else:
                            assert row["score"] == right
                            n_scored += 1
            finally:
                stop.set()
                killer.join()
            assert n_added >= 2 and n_scored >= 1
            for name in NAMES:
                if name not in listed(client):
                    wait_until(lambda: client.call("info")["state"] == "ready", 60)
                    add(client, name)
                assert scores(client, rows_of(name)) == truth[name]
            found = client.results("base", timeout=300)
            assert len(found) == 4000 and all(row["error"] is None for row in found)


def test_check(directory):
    """assay check says whether adapters can be used, without a broker."""
    def check(*loras):
        return subprocess.run([BIN / "assay", "check", directory / "base", *[word for lora in loras for word in ("--lora", lora)]],
                              capture_output=True, text=True, timeout=60 * PATIENCE)
    directory.mkdir(exist_ok=True)
    shutil.copytree(MODELS / "reward", directory / "base")
    shutil.copytree(LORA / "reward-all", directory / "adapter")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        for folder in ("base", "adapter"):
            shutil.copy(MODELS / "demo-reward" / file, directory / folder)
    done = check(f"a={directory / 'adapter'}", f"h={LORA / 'reward-half'}")
    assert done.returncode == 0 and "adapters       a, digest " in done.stdout and "\n               h, digest " in done.stdout, done
    assert "its own head" in done.stdout or "the base's head" in done.stdout
    (directory / "adapter/chat_template.jinja").write_text("{{ messages }}")
    for lora, code, word in ((f"a={directory / 'adapter'}", 78, "found another"), (f"a={LORA / 'seqcls-linear'}", 78, "model.score"),
                             (f"a={directory / 'none'}", 78, "adapter_config.json"), ("half", 64, "NAME=DIR")):
        done = check(lora)
        assert done.returncode == code and word in done.stderr, done


def test_the_command_line(directory):
    def lora(*words):
        return subprocess.run([BIN / "assay", "lora", *words, "--data", directory], cwd=LORA, capture_output=True, text=True,
                              timeout=60 * PATIENCE)
    with broker(directory) as b:
        done = lora("add", "half=reward-half")
        assert done.returncode == 0 and done.stdout.startswith("added half "), done
        assert json.loads(lora("list", "--json").stdout)["adapters"][0]["dir"] == str(LORA / "reward-half")
        assert lora("list").stdout.split()[0] == "half"
        done = lora("add", "bad=seqcls-linear")
        assert done.returncode != 0 and "model.score" in done.stderr, done
        assert lora("remove", "half").stdout.startswith("removed half ") and lora("list").stdout == ""
        gone = lora("remove", "half")
        assert gone.returncode == os.EX_DATAERR, gone
        for words, expected in ((("add",), "NAME=DIR"), (("add", "half"), "NAME=DIR"), (("remove",), "NAME"), (("list", "x"), "nothing more"),
                                (("drop", "x"), "add, list or remove"), (("add", "a=/none"), "cannot find")):
            done = lora(*words)
            assert done.returncode == 64 and expected in done.stderr, done
        assert b.process.poll() is None


def test_the_command_line_and_a_broker_that_goes(directory):
    """What takes long to load is waited for as long as a broker is there, and asked of the next one again."""
    adapter = directory / "a"
    shutil.copytree(LORA / "reward-half", adapter)
    os.truncate(adapter / "adapter_model.safetensors", 1 << 40)  # sparse: minutes of reading
    command = [BIN / "assay", "lora", "add", f"half={adapter}", "--data", directory / "d", "--timeout", "5"]
    with broker(directory / "d") as b:
        ranks = len(b.worker_pids())
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as adding:
            wait_until(lambda: len(b.worker_pids()) > ranks, 20)
            time.sleep(max(0, started + 8 - time.monotonic()))
            assert adding.poll() is None
            b.kill9()
            shutil.copy(LORA / "reward-half/adapter_model.safetensors", adapter / "new")
            os.replace(adapter / "new", adapter / "adapter_model.safetensors")
            b.start()
            out, errors = adding.communicate(timeout=60 * PATIENCE)
            assert adding.returncode == 0 and out.startswith("added half "), (out, errors)
        b.kill9()
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode == os.EX_UNAVAILABLE and "no broker answers" in done.stderr and "waited 5 s" in done.stderr, done


def test_a_broker_that_goes_before_it_has_answered(directory):
    """The request goes to the one that answers."""
    command = [BIN / "assay", "lora", "add", f"half={LORA / 'reward-half'}", "--data", directory, "--timeout", "30"]
    with zmq.Context() as context, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as adding:
        def bound():
            socket = context.socket(zmq.ROUTER)
            socket.bind(f"ipc://{directory}/broker.sock")
            return socket
        with bound() as first:
            assert first.poll(20000 * PATIENCE)
        with bound() as second:
            while second.poll(20000 * PATIENCE):
                peer, body = second.recv_multipart()
                body = msgpack.unpackb(body)
                reply = {"v": 1, "id": body["id"], "ok": True, "epoch": 2, "name": "half", "digest": "0" * 64}
                second.send_multipart([peer, msgpack.packb(reply)])
                if body["op"] == "adapter_add":
                    break
            out, _ = adding.communicate(timeout=20 * PATIENCE)
    assert adding.returncode == 0 and out.startswith("added half "), out
