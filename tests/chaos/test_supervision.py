"""Ranks that die, hang, lie and disagree; full disks; second brokers; orderly ends."""
import os
import pathlib
import signal
import subprocess
import time

import pytest
from harness import BIN, DEMO, FAULTY_WORKER, PATIENCE, Broker, Refused, random_key, wait_until

KILLS, HANGS, NOT_A_NUMBER, SLOW = 7, 8, 9, 11  # token ids that tests/chaos/faulty_worker.c acts on
FINE = [20, 21, 22]


def test_a_row_that_kills_is_found_and_its_neighbours_finish(directory):
    options = ["--tp", 2, "--no-dedupe"]  # all of them in the batch
    with Broker(directory / "d", worker=FAULTY_WORKER, options=options) as broker, broker.client() as client:
        rows = [{"ids": FINE}] * 13 + [{"ids": [KILLS]}] + [{"ids": FINE}] * 10
        found = client.call("score", rows=rows, timeout_ms=60000, timeout=90)["rows"]
        codes = [row["error"] and row["error"]["code"] for row in found]
        assert codes == [None] * 13 + ["worker_killed"] + [None] * 10
        assert "9" in found[13]["error"]["message"]  # SIGKILL
        assert len({row["score"] for row in found if row["score"] is not None}) == 1
        assert broker.sql("select attempts from rows where i = 13") == [(3,)]


def test_a_hang_is_seen(directory):
    options = ["--hang-ms", 500]
    with Broker(directory / "d", worker=FAULTY_WORKER, options=options) as broker, broker.client() as client:
        found = client.call("score", rows=[{"ids": FINE}, {"ids": [HANGS]}], timeout_ms=60000, timeout=90)["rows"]
        assert found[0]["error"] is None and found[1]["error"]["code"] == "worker_killed"


def test_not_a_number_is_that_rows_error(directory):
    with Broker(directory / "d", worker=FAULTY_WORKER) as broker, broker.client() as client:
        found = client.call("score", rows=[{"ids": FINE}, {"ids": [NOT_A_NUMBER]}], timeout_ms=60000)["rows"]
        assert found[0]["error"] is None
        assert found[1]["error"]["code"] == "non_finite" and found[1]["score"] is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_any_rank_may_go_at_any_time(directory, number):
    options = ["--tp", 4, "--hang-ms", 2000, "--max-batch-tokens", 512]
    with Broker(directory / "d", options=options) as broker, broker.client() as client:
        key = random_key()
        wait_until(lambda: len(broker.worker_pids()) == 4)
        client.submit(key, [{"ids": [k % 500] * 59 + [k // 500]} for k in range(2000)])
        for turn in range(3):
            wait_until(lambda: client.call("status", job=key)["done"] > turn * 100, 60)
            before = wait_until(lambda: len(broker.worker_pids()) == 4 and broker.worker_pids())
            os.kill(before[turn % 4], number)
            wait_until(lambda: not set(before) & set(broker.worker_pids()), 20)
        rows = client.results(key, timeout=120)
        assert len(rows) == 2000 and all(row["error"] is None for row in rows)


def test_retry_runs_failed_rows_again(directory):
    marker = directory / "fault"
    with Broker(directory / "d", worker=FAULTY_WORKER, env={"ASSAY_FAULT_FILE": str(marker)}) as broker:
        with broker.client() as client:
            key = random_key()
            client.submit(key, [{"ids": FINE}, {"ids": [NOT_A_NUMBER]}])
            first = client.results(key)
            client.call("retry", job=key)
            wait_until(lambda: client.call("status", job=key)["state"] == "done")
            rows = client.results(key)
            assert [row["i"] for row in first] != [] and sorted(row["i"] for row in rows) == [0, 1]


def test_orphans_do_not_survive(directory):
    with Broker(directory / "d", options=["--tp", 2]) as broker:
        pids = wait_until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids())
        broker.kill9()
        wait_until(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids), 5)


def test_sigterm_drains(directory):
    with Broker(directory / "d", worker=FAULTY_WORKER, options=["--max-batch-tokens", 64]) as broker:
        with broker.client() as client:
            key = random_key()
            client.submit(key, [{"ids": [SLOW] + FINE * 10} for _ in range(200)])
            wait_until(lambda: client.call("status", job=key)["done"] > 5)
            assert broker.stop() == 0
    with Broker(directory / "d") as broker, broker.client() as client:
        rows = client.results(key)
        assert len(rows) == 200 and all(row["error"] is None for row in rows)


def test_second_broker_is_refused(directory):
    with Broker(directory / "d") as broker:
        second = Broker(directory / "d")
        second.start(wait=False)
        assert second.process.wait(20 * PATIENCE) == 75
        assert str(broker.process.pid) in broker.words()
        with broker.client() as client:
            assert client.call("hello")["ok"]


def test_full_disk_refuses_new_work_and_keeps_the_old(directory):
    mount = directory / "small"
    mount.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", mount],
                                          capture_output=True).returncode != 0:
        pytest.skip("needs a file system of its own (root)")
    try:
        options = ["--min-free-bytes", 4 << 20]
        with Broker(mount / "d", options=options) as broker, broker.client() as client:
            key, accepted = random_key(), 0
            with pytest.raises(Refused) as refused:
                for chunk in range(200):
                    client.submit(key, [{"ids": [k % 500] * 250} for k in range(1000)], chunk=chunk, seal=False)
                    accepted += 1000
            assert refused.value.code == "queue_full" and accepted > 0, refused.value
            client.call("pause", job=key)
            assert client.call("status", job=key)["accepted"] == accepted
            assert broker.process.poll() is None
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_options_that_are_not_built_are_refused_by_name(directory):
    for options, word in [(["--pp", "4"], "pp 4 does not fit"), (["--quant", "fp8"], "fp8"), (["--device", "cuda"], "cuda"),
                          (["--lora", "a=/x"], "/x/adapter_config.json"), (["--tp", "3"], "tp"), (["--nonsense"], "nonsense"),
                          (["--listen", "tcp://0.0.0.0:5555"], "tcp")]:
        done = subprocess.run([BIN / "assayd", "--model", DEMO, "--data", directory, *options], capture_output=True,
                              text=True, timeout=30 * PATIENCE)
        assert done.returncode in (64, 78) and word in done.stderr, (options, done.returncode, done.stderr)


def test_job_of_another_model_is_held(directory):
    key = random_key()
    with Broker(directory / "d") as broker, broker.client() as client:
        client.submit(key, [{"ids": FINE}], seal=False)
        wait_until(lambda: client.call("status", job=key)["done"] == 1)
    with Broker(directory / "d", options=["--tp", 2]) as broker, broker.client() as client:
        status = client.call("status", job=key)
        assert status["state"] == "paused" and "tp=1" in status["reason"] and "tp=2" in status["reason"]
        with pytest.raises(Refused, match="wrong_state.*held"):
            client.submit(key, [{"ids": FINE}], chunk=1)
        client.call("resume", job=key, accept_mode=True)
        client.submit(key, [{"ids": FINE}], chunk=1)
        assert len(client.results(key)) == 2
