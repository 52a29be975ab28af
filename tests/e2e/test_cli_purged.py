"""A job that is cancelled and purged while its rows are still being sent."""
import json
import subprocess

import pytest

import harness
from client_harness import Client
from harness import PATIENCE, Broker, wait_until
from assay import AssayError


def lines(first, n):
    return "".join(json.dumps({"id": i, "input_ids": [i % 500, i // 500, 7]}) + "\n" for i in range(first, first + n))


def purge(client, key):
    client.call("cancel", job=key)
    client.call("purge", job=key)


@pytest.mark.parametrize("verb", ["submit", "score"])
def test_the_sender_is_told(tmp_path, verb):
    options = {"submit": [], "score": ["-o", tmp_path / "out.jsonl"]}[verb]
    command = [harness.BIN / "assay", verb, "-", "--key", "k", "--data", tmp_path / "d", *options]
    with Broker(tmp_path / "d") as broker, broker.client() as client:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdin.write(lines(0, 600))
        process.stdin.flush()
        wait_until(lambda: any(job["accepted"] == 512 for job in client.call("jobs")["jobs"]))
        purge(client, "k")
        try:
            _, said = process.communicate(lines(600, 1000), timeout=60 * PATIENCE)
        finally:
            process.kill()
        assert process.returncode == 65, said
        assert "job 'k' was purged while its rows were sent (number 1)" in said or "was purged while its rows were scored" in said, said
        assert "goes on from there" not in said


def test_the_python_client_is_told(tmp_path):
    with Broker(tmp_path / "d") as broker, broker.client() as client:
        def rows():
            for i in range(30):
                if i == 20:
                    purge(client, "k")
                yield {"id": i, "ids": [i]}
        with pytest.raises(AssayError, match="purged") as caught:
            Client(broker.endpoint).submit(rows(), key="k", chunk_rows=10)
        assert caught.value.code == "unknown_job"
