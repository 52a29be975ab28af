"""A reload of a model that has adapters: they go over to the new checkpoint, and jobs that began before keep theirs. A reload that is
cancelled changes nothing."""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading

import pytest
from harness import BIN, MODELS, Broker, Refused, changed_model, ids_bytes, wait_until
from test_reload import earlier, n_workers, reload, score, scores

LORA = MODELS / "lora"
NAMES = [None, "all", "half"]
RNG = random.Random(5)
ROWS = [{"ids": ids_bytes([RNG.randrange(20, 250) for _ in range(RNG.randint(20, 90))]), **({"adapter": name} if name else {})}
        for name in NAMES for _ in range(60)]
OPTIONS = ["--max-batch-tokens", "256", "--no-dedupe"]
LORAS = [f"all={LORA}/reward-all", f"half={LORA}/reward-half"]
WITH = [word for lora in LORAS for word in ("--lora", lora)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two checkpoints, and what each gives alone for ROWS."""
    home = tmp_path_factory.mktemp("models")
    found = {"a": MODELS / "reward", "b": changed_model(home / "b", -0.5, base="reward")}
    truth = {}
    for name, model in found.items():
        with Broker(home / f"alone-{name}", model=model, options=WITH) as broker, broker.client() as client:
            truth[name] = score(client, ROWS)
            truth[name, "digest"] = broker.model["digest"]
    assert truth["a"] != truth["b"] and len({truth["b"][k] for k in (0, 60, 120)}) == 3
    return found, truth


def adapters(client):
    return {a["name"]: a["dir"] for a in client.call("adapters")["adapters"]}


@pytest.mark.parametrize("more", [[], ["--replicas", "2"]], ids=["one", "replicas"])
def test_they_go_over(directory, models, more):
    """One is of the options, the other was added later."""
    found, truth = models
    n = 2 if more else 1
    with Broker(directory, model=found["a"], options=[*OPTIONS, *WITH[:2], *more]) as broker, broker.client() as client:
        client.call("adapter_add", name="half", dir=str(LORA / "reward-half"), timeout=200)
        client.submit("old", ROWS)
        client.submit("open", ROWS[:100], seal=False)
        reply = reload(client, found["b"])
        assert reply["changed"] and reply["adapters"] == ["all", "half"] and reply["digest"] == truth["b", "digest"]
        assert [a["name"] for a in client.call("hello")["model"]["adapters"]] == ["all", "half"]
        assert adapters(client) == {"all": str(LORA / "reward-all"), "half": str(LORA / "reward-half")}
        client.submit("new", ROWS)
        client.submit("open", ROWS[100:], chunk=1)
        for key, name in (("old", "a"), ("open", "a"), ("new", "b")):
            assert scores(client.results(key, timeout=120)) == truth[name], key
        wait_until(lambda: earlier(client) == [] and n_workers(client) == n, 60)
        assert score(client, ROWS) == truth["b"]
        for worker in client.call("info")["workers"]:  # they are there at the next start, too
            os.kill(worker["pid"], signal.SIGKILL)
        assert score(client, ROWS) == truth["b"]


def test_what_is_removed_and_added_later_is_the_new_one_s(directory, models):
    found, truth = models
    with Broker(directory, model=found["a"], options=[*OPTIONS, *WITH]) as broker, broker.client() as client:
        client.submit("open", ROWS[:100], seal=False)
        reload(client, found["b"])
        client.call("adapter_remove", name="half")
        assert list(adapters(client)) == ["all"]
        client.submit("open", ROWS[100:], chunk=1)  # it has them all
        assert scores(client.results("open", timeout=120)) == truth["a"]
        [row] = client.call("score", rows=ROWS[-1:], timeout_ms=60000)["rows"]
        assert row["error"]["code"] == "unknown_adapter"
        client.call("adapter_add", name="half", dir=str(LORA / "reward-half"), timeout=200)
        assert score(client, ROWS) == truth["b"]
        wait_until(lambda: earlier(client) == [], 60)


def test_back_to_one_that_is_still_there(directory, models):
    """With the same adapters as then, or not at all."""
    found, truth = models
    with Broker(directory, model=found["a"], options=[*OPTIONS, *WITH]) as broker, broker.client() as client:
        client.submit("open", ROWS[:70], seal=False)
        reload(client, found["b"])
        client.call("adapter_remove", name="half")
        with pytest.raises(Refused) as refused:
            reload(client, found["a"])
        assert refused.value.code == "wrong_state" and "other adapters" in str(refused.value)
        client.call("adapter_add", name="half", dir=str(LORA / "reward-half"), timeout=200)
        assert reload(client, found["a"])["adapters"] == ["all", "half"]
        client.submit("open", ROWS[70:], chunk=1)
        assert score(client, ROWS) == scores(client.results("open", timeout=120)) == truth["a"]
        reply = reload(client, found["a"])
        assert not reply["changed"] and reply["adapters"] == ["all", "half"]


def test_what_changed_is_refused_by_name(directory, tmp_path, models):
    found, truth = models
    lora = tmp_path / "lora"
    shutil.copytree(LORA / "reward-half", lora)
    with Broker(directory, model=found["a"], options=[*OPTIONS, *WITH[:2], "--lora", f"mine={lora}"]) as broker, broker.client() as client:
        file = lora / "adapter_model.safetensors"
        intact = file.read_bytes()
        file.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        with pytest.raises(Refused) as refused:
            reload(client, found["b"])
        assert refused.value.code == "bad_request" and "the adapter 'mine'" in str(refused.value) and refused.value.err["field"] == "dir"
        with pytest.raises(Refused) as refused:  # they do not fit it
            reload(client, MODELS / "demo-reward")
        assert refused.value.code == "bad_request"
        file.write_bytes(intact)
        assert score(client, ROWS[:120]) == truth["a"][:120] and client.call("hello")["model"]["digest"] == truth["a", "digest"]
        assert reload(client, found["b"])["adapters"] == ["all", "mine"]
        rows = [{**row, "adapter": {"half": "mine"}.get(row["adapter"], row["adapter"])} if "adapter" in row else row for row in ROWS]
        assert score(client, rows) == truth["b"]


@pytest.mark.parametrize("phase", ["opening", "starting"])
def test_a_reload_is_cancelled(directory, tmp_path, models, phase):
    found, truth = models
    worker, slow = tmp_path / "worker", "--describe" if phase == "opening" else "--control"
    worker.write_text(f"""#!/bin/sh
case " $* " in *" {slow} "*) [ -e {tmp_path}/slow ] && exec sleep 60;; esac
exec {BIN / 'assay-worker'} "$@"
""")
    worker.chmod(0o755)
    with Broker(directory, model=found["a"], options=[*OPTIONS, *WITH], worker=worker) as broker, broker.client() as client:
        with pytest.raises(Refused) as refused:
            client.call("reload_cancel")
        assert refused.value.code == "wrong_state"
        assert score(client, ROWS) == truth["a"]
        (tmp_path / "slow").touch()
        refusals = []

        def ask():
            with broker.client() as other:
                with contextlib.suppress(TimeoutError):
                    try:
                        reload(other, found["b"])
                    except Refused as why:
                        refusals.append((why.code, str(why)))
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: (about := client.call("info")["reload"]) and about["state"] == phase, 40)
        done = subprocess.run([BIN / "assay", "reload", "--cancel", "--data", directory], capture_output=True, text=True)
        assert done.returncode == 0 and str(found["b"]) in done.stdout, done
        thread.join()
        assert len(refusals) == 1 and refusals[0][0] == "wrong_state" and "cancelled" in refusals[0][1], refusals
        wait_until(lambda: client.call("info")["reload"] is None and n_workers(client) == 1, 20)
        assert score(client, ROWS) == truth["a"]
        (tmp_path / "slow").unlink()
        assert reload(client, found["b"])["changed"] and score(client, ROWS) == truth["b"]
        done = subprocess.run([BIN / "assay", "reload", "--cancel", "--data", directory], capture_output=True, text=True)
        assert done.returncode != 0 and "found none" in done.stderr
        done = subprocess.run([BIN / "assay", "reload", "--data", directory], capture_output=True, text=True)
        assert done.returncode == os.EX_USAGE and "--cancel" in done.stderr
