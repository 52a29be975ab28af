"""Another checkpoint for a model of a running broker: every row is scored once, each job by one checkpoint, to the bit as by that one
alone, whatever is killed meanwhile; what cannot be loaded changes nothing."""
import contextlib
import itertools
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
from harness import BIN, MODELS, PATIENCE, Broker, Refused, changed_model, framed_model, ids_bytes, random_key, wait_until
from http_harness import Http, float32

IDS = [[3 + (7 * i + k) % 90 for k in range(60 + i % 40)] for i in range(160)]
LONG = [{"id": i, "ids": ids_bytes(ids)} if i % 3 < 2 else {"id": i, "prompt": f"{i} + {i % 7} = ?" * 5, "response": str(i)}
        for i, ids in enumerate(IDS)]
ROWS = LONG[:24]
SLOW = ["--max-batch-tokens", "256", "--no-dedupe"]


def scores(rows):
    assert all(row["error"] is None for row in rows), rows
    assert [row["i"] for row in sorted(rows, key=lambda row: row["i"])] == list(range(len(rows)))
    return [row["score"] for row in sorted(rows, key=lambda row: row["i"])]


def score(client, rows=ROWS, **fields):
    return scores(client.call("score", rows=rows, timeout_ms=100000, timeout=150, **fields)["rows"])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three checkpoints with one tokenizer, and what each gives alone for LONG."""
    home = tmp_path_factory.mktemp("models")
    found = {"a": MODELS / "demo-reward", "b": changed_model(home / "b", -0.5), "c": changed_model(home / "c", 3.0)}
    truth = {}
    for name, model in found.items():
        with Broker(home / f"alone-{name}", model=model) as broker, broker.client() as client:
            truth[name] = score(client, LONG)
            truth[name, "digest"] = broker.model["digest"]
    assert len({truth[name][0] for name in "abc"}) == 3
    return found, truth


def reload(client, directory, **fields):
    return client.call("reload", dir=str(directory), timeout=100 * PATIENCE, **fields)


def earlier(client):
    return [m["digest"] for m in client.call("info")["earlier"]]


def checkpoints(broker, key):
    return broker.sql("select distinct results.checkpoint from results join jobs using (job) where key = ?", key)


def n_workers(client):
    return len(client.call("info")["workers"])


@pytest.mark.parametrize("more", [[], ["--replicas", "2"], ["--tp", "2"]], ids=["one", "replicas", "tp"])
def test_jobs_keep_the_checkpoint_that_they_began_with(directory, models, more):
    found, truth = models
    n = 2 if more else 1
    if "--tp" in more:
        truth = dict(truth)
        for name in "ab":
            with Broker(directory / name, model=found[name], options=more) as broker, broker.client() as client:
                truth[name] = score(client, LONG)
    with Broker(directory, model=found["a"], options=[*SLOW, *more]) as broker, broker.client() as client:
        client.submit("old", LONG)
        client.submit("open", LONG[:100], seal=False)
        reply = reload(client, found["b"])
        assert reply["model"] == "demo-reward" and reply["changed"] and reply["digest"] == truth["b", "digest"]
        assert reply["dir"] == str(found["b"]) and reply["at_start"] == str(found["a"])
        assert client.call("hello")["model"]["digest"] == truth["b", "digest"]
        assert earlier(client) == [truth["a", "digest"]] and n_workers(client) == 2 * n
        client.submit("new", LONG)
        client.submit("open", LONG[100:], chunk=1)  # of the earlier one, as it began
        assert score(client) == truth["b"][:24]
        for key, name in (("old", "a"), ("open", "a"), ("new", "b")):
            assert scores(client.results(key)) == truth[name], key
            assert checkpoints(broker, key) == [(truth[name, "digest"],)]
            assert client.call("status", job=key)["checkpoint"] == truth[name, "digest"]
        wait_until(lambda: earlier(client) == [] and n_workers(client) == n, 60)
        wait_until(lambda: len(broker.worker_pids()) == n, 60)
        wait_until(lambda: len(broker.sql("select * from workers")) == n, 60)
        assert broker.sql("select distinct checkpoint from jobs where key = 'old'") == [(truth["a", "digest"],)]
        assert score(client) == truth["b"][:24]


def test_each_text_is_written_by_the_tokenizer_of_its_checkpoint(directory, tmp_path):
    """The weights are the same, and the other tokenizer puts a token before and behind each text."""
    found = {"plain": MODELS / "demo-reward", "framed": framed_model(tmp_path / "framed")}
    texts, truth = [{"id": i, "text": f"{i} + {i % 7} = {i + i % 7}. " * 3} for i in range(30)], {}
    for name, model in found.items():
        with Broker(tmp_path / name[:2], model=model) as broker, broker.client() as client:
            truth[name] = client.call("score", rows=texts, timeout_ms=100000, timeout=150)["rows"]
    assert all(b["n_tokens"] == a["n_tokens"] + 2 and b["score"] != a["score"] for a, b in zip(*truth.values()))

    def check(rows, name):
        assert [[row["score"], row["n_tokens"]] for row in rows] == [[row["score"], row["n_tokens"]] for row in truth[name]], name

    with Broker(directory, model=found["plain"], options=["--max-batch-tokens", "256", "--score-cache", "4M"]) as broker, broker.client() as client:
        client.submit("old", texts[:10], seal=False)
        session = client.call("open", row={"text": texts[20]["text"]})["session"]
        assert reload(client, found["framed"])["changed"]
        client.submit("new", texts)
        client.submit("old", texts[10:], chunk=1)  # through the checkpoint that the job began with: text, too
        check(client.results("old"), "plain")
        check(client.results("new"), "framed")
        grown = client.call("score", sessions=[session], timeout_ms=100000, timeout=150)["rows"][0]
        assert [grown["score"], grown["n_tokens"]] == [truth["framed"][20][key] for key in ("score", "n_tokens")]
        wait_until(lambda: earlier(client) == [], 60)
        assert reload(client, found["plain"])["changed"]
        check(client.call("score", rows=texts, timeout_ms=100000, timeout=150)["rows"], "plain")


def test_two_reloads_in_a_row_and_back(directory, models):
    found, truth = models
    with Broker(directory, model=found["a"], options=SLOW) as broker, broker.client() as client:
        for name, following in zip("abc", "bca"):
            client.submit(f"first-{name}", LONG)
            client.submit(f"open-{name}", LONG[:7], seal=False)
            assert reload(client, found[following])["changed"]
        assert sorted(earlier(client)) == sorted(truth[name, "digest"] for name in "bc")  # a is current once more, as it was there
        client.submit("last", LONG)
        for name in "abc":
            client.submit(f"open-{name}", LONG[7:], chunk=1)
        for key, name in [*((f"first-{name}", name) for name in "abc"), *((f"open-{name}", name) for name in "abc"), ("last", "a")]:
            assert scores(client.results(key, timeout=120)) == truth[name], key
            assert checkpoints(broker, key) == [(truth[name, "digest"],)]
        wait_until(lambda: earlier(client) == [], 60)
        again = reload(client, found["a"])
        assert not again["changed"] and again["digest"] == truth["a", "digest"] and n_workers(client) == 1


def test_messages_that_come_again_while_the_old_one_ends(directory, models):
    """A job that was finished by the earlier checkpoint: its messages get what they got, whatever state that is in."""
    found, truth = models
    with Broker(directory, model=found["a"]) as broker, broker.client() as client:
        for k, name in enumerate("bcab"):
            client.submit(f"done {k}", ROWS)
            was = scores(client.results(f"done {k}"))
            reload(client, found[name])
            until = time.monotonic() + 1
            while time.monotonic() < until:  # the old workers end meanwhile
                for fields in ({"model": "demo-reward"}, {}):
                    for ask in (lambda: client.submit(f"done {k}", ROWS, **fields) and None,
                                lambda: score(client, key=f"done {k}", **fields)):
                        with contextlib.suppress(Refused):
                            assert ask() in (None, was)
            assert broker.process.poll() is None
            assert scores(client.results(f"done {k}")) == was and score(client) == truth[name][:24]


def test_a_run_that_was_begun_before_is_begun_anew(directory, tmp_path, models):
    """`assay score` goes on with a job of the checkpoint that the name has now, and no other's."""
    found, truth = models
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": i, "ids": ids}) + "\n" for i, ids in enumerate(IDS)))
    with Broker(tmp_path / "alone", model=found["b"]) as broker, broker.client() as client:
        expected = score(client, [{"ids": ids_bytes(ids)} for ids in IDS])
    command = [BIN / "assay", "score", source, "-o", out, "--data", directory]
    with Broker(directory, model=found["a"], options=[*SLOW, "--threads", "1"]) as broker, broker.client() as client:
        killed = subprocess.Popen(command)
        wait_until(lambda: broker.sql("select 1 from jobs where state = 'running' and done > 0"))
        client.call("pause", job=1)
        killed.kill()
        killed.wait()
        reload(client, found["b"])
        client.call("resume", job=1)
        again = subprocess.run(command, capture_output=True, text=True)
        assert again.returncode == 0 and "had before" in again.stderr and "scoring anew" in again.stderr, again
        assert [float32(row["score"]) for row in map(json.loads, out.read_text().splitlines())] == [float32(x) for x in expected]


def broken(tmp_path, found):
    """Directories that cannot be loaded, with words of the reason."""
    yield tmp_path / "none", "none"
    (tmp_path / "empty").mkdir()
    yield tmp_path / "empty", "config.json"
    cut = changed_model(tmp_path / "cut", 1.0)
    os.truncate(cut / "model.safetensors", 5000)
    yield cut, "safetensors"
    yield changed_model(tmp_path / "nan", float("nan")), ""
    yield MODELS / "seqcls-3-labels", "labels"
    yield MODELS / "demo-process", "labels"


def test_what_cannot_be_loaded_changes_nothing(directory, tmp_path, models):
    found, truth = models
    with Broker(directory, model=found["a"], options=SLOW) as broker, broker.client() as client:
        before, info = client.call("hello"), client.call("info")
        client.submit("job", LONG)
        for path, words in broken(tmp_path, found):
            with pytest.raises(Refused) as refused:
                print(path, reload(client, path))
            assert refused.value.code == "bad_request" and refused.value.err["field"] == "dir", (path, refused.value)
            assert words in str(refused.value), refused.value
            after = client.call("hello")
            assert after == {**before, "id": after["id"]} and earlier(client) == [], path
        assert client.call("info")["workers"][0]["pid"] == broker.worker_pids()[0] and n_workers(client) == 1
        assert scores(client.results("job")) == truth["a"]
        for fields in ({"model": "z"}, {"dir": "relative"}):
            with pytest.raises(Refused) as refused:
                client.call("reload", **{"dir": str(found["b"]), **fields})
            assert refused.value.code == ("unknown_model" if "model" in fields else "bad_request")
        assert reload(client, found["b"])["changed"] and score(client) == truth["b"][:24]


def test_workers_that_cannot_start(directory, tmp_path, models):
    """The files are fine when they are read, and gone when the workers start."""
    found, truth = models
    worker = tmp_path / "worker"
    worker.write_text(f"#!/bin/sh\ncase \"$*\" in *describe*) ;; *--model*{tmp_path.name}/there*) exit 70;; esac\n"
                      f"exec {BIN / 'assay-worker'} \"$@\"\n")
    worker.chmod(0o755)
    there = changed_model(tmp_path / "there", 2.0)
    with Broker(directory, model=found["a"], worker=worker) as broker, broker.client() as client:
        client.submit("job", LONG)
        with pytest.raises(Refused) as refused:
            reload(client, there)
        assert "cannot start" in str(refused.value), refused.value
        assert scores(client.results("job")) == truth["a"] and n_workers(client) == 1 and earlier(client) == []
        assert reload(client, found["b"])["changed"]


def test_a_second_one_is_refused_by_name(directory, tmp_path, models):
    found, truth = models
    worker = tmp_path / "worker"
    worker.write_text(f"#!/bin/sh\n[ -e {tmp_path}/slow ] && sleep 3\nexec {BIN / 'assay-worker'} \"$@\"\n")
    worker.chmod(0o755)
    lora = MODELS / "lora/reward-half"
    with Broker(directory, model=found["a"], worker=worker) as broker, broker.client() as client, broker.client() as other:
        (tmp_path / "slow").touch()
        thread = threading.Thread(target=lambda: reload(other, found["b"]))
        thread.start()
        wait_until(lambda: client.call("info")["reload"], 20)
        about = client.call("info")["reload"]
        assert about["model"] == "demo-reward" and about["dir"] == str(found["b"]) and about["state"] in ("opening", "starting")
        with pytest.raises(Refused) as refused:
            reload(client, found["c"])
        assert refused.value.code == "wrong_state" and str(found["b"]) in str(refused.value) and "demo-reward" in str(refused.value)
        with pytest.raises(Refused) as refused:
            client.call("adapter_add", name="x", dir=str(lora))
        assert refused.value.code == "not_ready"
        thread.join()
        (tmp_path / "slow").unlink()
        assert score(client) == truth["b"][:24] and client.call("info")["reload"] is None


def test_stopped_while_it_loads(directory, tmp_path, models):
    found, truth = models
    worker = tmp_path / "worker"
    worker.write_text(f"#!/bin/sh\n[ -e {tmp_path}/slow ] && sleep 30\nexec {BIN / 'assay-worker'} \"$@\"\n")
    worker.chmod(0o755)
    with Broker(directory, model=found["a"], worker=worker) as broker, broker.client() as client:
        wait_until(lambda: client.call("info")["state"] == "ready", 60)
        (tmp_path / "slow").touch()
        refusals = []

        def ask():
            with broker.client() as other:
                try:
                    reload(other, found["b"])
                except Refused as refused:
                    refusals.append(refused.code)
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: client.call("info")["reload"], 20)
        assert broker.stop() == 0
        thread.join()
        assert refusals == ["not_ready"]


def test_one_of_several_models(directory, models):
    found, truth = models
    options = [*SLOW, "--model", f"y={found['b']}"]
    with Broker(directory, model=f"x={found['a']}", options=options) as broker, broker.client() as client:
        with pytest.raises(Refused) as refused:
            reload(client, found["c"])
        assert refused.value.code == "bad_request" and refused.value.err["field"] == "model"
        client.submit("y", LONG, model="y")
        client.submit("both", [{**row, "models": ["x", "y"]} for row in LONG[:40]], seal=False)
        client.submit("mixed", [{**row, "model": "xy"[i % 2]} for i, row in enumerate(LONG[:40])], seal=False)
        client.submit("gap", [{**row, "model": "y"} for row in LONG[40:]], chunk=1)
        assert reload(client, found["c"], model="y")["model"] == "y"
        hello = client.call("hello")
        assert [m["name"] for m in hello["models"]] == ["x", "y"] and hello["models"][1]["model"]["digest"] == truth["c", "digest"]
        client.submit("both", [{**row, "models": ["x", "y"]} for row in LONG[40:]], chunk=1)
        client.submit("mixed", [{**row, "model": "xy"[i % 2]} for i, row in enumerate(LONG[40:])], chunk=1)
        client.submit("new", [{**row, "model": "xy"[i % 2]} for i, row in enumerate(LONG)])
        client.submit("y again", LONG, model="y")
        assert scores(client.results("y")) == truth["b"] and scores(client.results("y again")) == truth["c"]
        assert scores(client.results("mixed")) == [truth["ab"[i % 2]][i] for i in range(len(LONG))]
        assert scores(client.results("new")) == [truth["ac"[i % 2]][i] for i in range(len(LONG))]
        rows = sorted(client.results("both"), key=lambda row: row["i"])
        assert [row["scores"] for row in rows] == [list(pair) for pair in zip(truth["a"], truth["b"])]
        client.submit("gap", LONG[:40], seal=False)  # its first chunk comes now: its names mean what they mean now
        assert scores(client.results("gap")) == truth["a"][:40] + truth["c"][40:]
        wait_until(lambda: earlier(client) == [], 60)
        assert score(client, model="y") == truth["c"][:24] and score(client) == truth["a"][:24]


def test_files_replaced_in_place(directory, tmp_path, models):
    found, truth = models
    there, other = changed_model(tmp_path / "there", -0.5), found["c"]
    with Broker(directory, model=there, options=SLOW) as broker, broker.client() as client:
        assert score(client) == truth["b"][:24]
        client.submit("open", LONG[:5], seal=False)
        wait_until(lambda: client.call("status", job="open")["done"] == 5)
        shutil.copy(other / "model.safetensors", tmp_path / "new")
        os.rename(tmp_path / "new", there / "model.safetensors")
        reply = reload(client, there)
        assert reply["changed"] and reply["digest"] == truth["c", "digest"] and reply["at_start"] == reply["dir"] == str(there)
        assert score(client) == truth["c"][:24]
        client.submit("open", LONG[5:], chunk=1)  # the earlier one's workers notice at their next batch, and cannot start again
        status = wait_until(lambda: (s := client.call("status", job="open"))["state"] == "paused" and s, 60)
        assert truth["b", "digest"][:12] in status["reason"] and truth["c", "digest"][:12] in status["reason"]
        wait_until(lambda: earlier(client) == [], 20)
        done = status["done"]
        client.call("resume", job="open", accept_mode=True)
        found_rows = sorted(client.results("open"), key=lambda row: row["i"])
        assert len(found_rows) == len(LONG) and 5 <= done < len(LONG)
        assert sum(row["score"] == truth["c"][row["i"]] for row in found_rows) >= len(LONG) - done - 1
    with Broker(directory, model=there) as broker, broker.client() as client:
        assert score(client) == truth["c"][:24]


def test_the_next_start_serves_what_its_options_name(directory, models):
    found, truth = models
    broker = Broker(directory, model=found["a"], options=SLOW)
    with broker, broker.client() as client:
        client.submit("old", LONG)
        reload(client, found["b"])
        client.submit("new", LONG)
        broker.kill9()
    with broker, broker.client() as client:
        assert scores(client.results("old")) == truth["a"]
        status = client.call("status", job="new")
        assert status["state"] == "paused" and truth["b", "digest"][:12] in status["reason"]
        reload(client, found["b"])  # what is missing is loaded: the job goes on
        assert scores(client.results("new")) == truth["b"]
    broker = Broker(directory, model=found["b"], options=SLOW)
    with broker, broker.client() as client:
        assert score(client) == truth["b"][:24]


def test_cache_and_sessions(directory, models):
    found, truth = models
    with Broker(directory, model=found["a"], options=["--score-cache", "4M"]) as broker, broker.client() as client:
        session = client.call("open", row={"ids": ROWS[0]["ids"]})["session"]

        def of_session():
            return client.call("score", sessions=[session], timeout_ms=60000)["rows"][0]["score"]
        assert score(client) == truth["a"][:24] and of_session() == truth["a"][0]
        reload(client, found["b"])
        assert score(client) == truth["b"][:24] and of_session() == truth["b"][0]
        assert score(client) == truth["b"][:24]
        reload(client, found["a"])
        before = client.call("info")["counters"]["tokens"]
        assert score(client) == truth["a"][:24]
        assert client.call("info")["counters"]["tokens"] == before  # the first one's results are still there


def test_the_verb(directory, models):
    found, truth = models
    with Broker(directory, model=found["a"]) as broker, broker.client() as client:
        wait_until(lambda: client.call("info")["state"] == "ready", 60)

        def assay(*words):
            return subprocess.run([BIN / "assay", "reload", *words, "--data", directory], capture_output=True, text=True)
        done = assay(found["b"])
        assert done.returncode == 0 and truth["b", "digest"][:12] in done.stdout and "change --model" in done.stderr, done
        done = assay(f"demo-reward={found['b']}")
        assert done.returncode == 0 and " has " in done.stdout, done
        done = assay(found["a"], "--json")
        assert json.loads(done.stdout)["changed"] and done.stderr == "", done
        for words, code in (([f"{directory}/none"], 64), ([MODELS / "seqcls-3-labels"], 65), ([f"z={found['b']}"], 65)):
            done = assay(*words)
            assert done.returncode == code and done.stdout == "" and done.stderr.count("\n") == 1, done
        assert score(client) == truth["a"][:24]


def test_http_gives_the_scores_of_the_checkpoint_that_it_knows(directory, models):
    """A request that meets a reload is 503 or has scores of one checkpoint; soon all are of the new one."""
    found, truth = models
    def known(name):
        return [truth[name][i] for i in range(24) if i % 3 < 2]

    rows = [IDS[i] for i in range(24) if i % 3 < 2]
    with Broker(directory / "d", model=found["a"]) as broker, broker.client() as client, Http(directory, broker) as http:
        def ask():
            status, reply = http.post("/classify", {"input": rows})
            return status if status != 200 else [float32(one["probs"][0]) for one in reply["data"]]
        assert ask() == known("a")
        reload(client, found["b"])
        answers, deadline = [ask()], time.monotonic() + 30 * PATIENCE
        while answers[-1] != known("b") and time.monotonic() < deadline:
            answers.append(ask())
        assert answers[-1] == known("b") and all(answer == 503 for answer in answers[:-1]), answers[:-1]
        assert client.call("info")["earlier"] == []


def submit_for_ever(broker, stop, jobs, seed):
    """Jobs of some chunks each, one after the other, sent again where a broker died; `jobs` has their keys."""
    rng = random.Random(seed)
    while not stop.is_set():
        key, at, chunk = random_key("load"), 0, 0
        jobs.append(key)
        while at < 120:
            n = rng.randrange(10, 60)
            while True:
                with contextlib.suppress(TimeoutError), broker.client(timeout=2.0 / PATIENCE) as client:
                    try:
                        client.submit(key, LONG[at:min(at + n, 120)], chunk=chunk, seal=at + n >= 120)
                        break
                    except Refused as refused:
                        assert refused.code == "wrong_state" and "made with" in str(refused), refused
                        time.sleep(0.05)  # held until its checkpoint is back
            at, chunk = at + n, chunk + 1
            time.sleep(rng.random() * 0.1)


@pytest.mark.parametrize("seed", range(int(os.environ.get("ASSAY_SEEDS", "1"))))
def test_under_load_with_kills(directory, models, seed):
    """Reloads there and back, workers and brokers killed at any moment. Each job has all its rows, of one checkpoint."""
    found, truth = models
    rng = random.Random(seed + int(os.environ.get("ASSAY_SEED", "0")))
    broker, stop, jobs = Broker(directory, model=found["a"], options=SLOW), threading.Event(), []
    with broker:
        threads = [threading.Thread(target=submit_for_ever, args=(broker, stop, jobs, 10 * seed + k)) for k in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(6 if PATIENCE == 1 else 3):
            with broker.client() as client, contextlib.suppress(Refused, TimeoutError):
                if turn % 3 == 2:  # killed at some moment of the reload
                    client.socket.send(msgpack.packb({"v": 1, "op": "reload", "id": 1, "dir": str(found["bca"[turn % 3]])}))
                    time.sleep(rng.random() * 1.5)
                    broker.kill9()
                    broker.log.close()
                    broker.start()
                    continue
                reload(client, found["bca"[turn % 3]])
            for pid in broker.worker_pids():
                if rng.random() < 0.5:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(rng.random())
        stop.set()
        deadline = time.monotonic() + 120 * PATIENCE
        for name in itertools.cycle("bca"):  # whatever a job was begun with is there once more
            with broker.client() as client, contextlib.suppress(Refused):
                reload(client, found[name])
                time.sleep(0.5)
                unfinished = [job for job in client.call("jobs")["jobs"] if job["state"] != "done"]
                if not unfinished and not any(thread.is_alive() for thread in threads):
                    break
                assert time.monotonic() < deadline, unfinished
        for thread in threads:
            thread.join()
        with broker.client() as client:
            for key in jobs:
                rows = scores(client.results(key, timeout=120))
                digest = client.call("status", job=key)["checkpoint"]
                name = next(name for name in "abc" if truth[name, "digest"] == digest)
                assert rows == truth[name][:120], key
                assert checkpoints(broker, key) == [(digest,)]
            used = {digest for (digest,) in broker.sql("select distinct checkpoint from jobs")}
            assert len(used) > 1, used
