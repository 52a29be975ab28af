"""`assay shard`: the shards are the input, byte for byte and in order, or there are none; and their scores are the whole file's."""
import gzip
import json
import os
import random
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE


def run(*words, **more):
    return subprocess.run([BIN / "assay", *map(str, words)], capture_output=True, text=True, timeout=60 * PATIENCE, **more)


def parts(path):
    return [(path / f"{k}.jsonl").read_bytes() for k in range(len(list(path.iterdir())))]


def lines(n, seed=1):
    chance = random.Random(seed)
    return [json.dumps({"id": f"r{k}", "ids": [chance.randrange(300) for _ in range(chance.randrange(1, 60))]}) for k in range(n)]


@pytest.mark.parametrize("n_lines,n", [(0, 1), (0, 3), (1, 1), (1, 4), (7, 3), (100, 7), (100, 100), (3000, 16)])
@pytest.mark.parametrize("end", ["\n", ""])
def test_they_are_the_input(tmp_path, n_lines, n, end):
    text = ("\n".join(lines(n_lines)) + end if n_lines else "").encode()
    (tmp_path / "in.jsonl").write_bytes(text)
    done = run("shard", tmp_path / "in.jsonl", n, "--dir", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    found = parts(tmp_path / "d")
    assert len(found) == n and b"".join(found) == text
    sizes = [len(one.splitlines()) for one in found]
    assert sum(sizes) == n_lines and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    assert f"{n_lines} line{'' if n_lines == 1 else 's'} in {n} file{'' if n == 1 else 's'}" in done.stderr
    assert not (tmp_path / "d.part").exists()


def test_lines_that_no_piece_holds_and_any_bytes(tmp_path):
    """Blank lines, bytes that are no UTF-8, and a line longer than what is read at a time."""
    text = b"\n\n" + b'{"id": 1, "text": "' + b"x" * 3_000_000 + b'"}\n\xff\xfe\r\n' + b"y" * 1_048_576 + b"\n\0\n"
    (tmp_path / "in.jsonl").write_bytes(text)
    assert run("shard", tmp_path / "in.jsonl", 3, "--dir", tmp_path / "d/").returncode == 0
    found = parts(tmp_path / "d")
    assert b"".join(found) == text and [one.count(b"\n") for one in found] == [2, 2, 2]


def test_scores_are_those_of_the_whole(tmp_path):
    """Compressed as `score` reads it; with more shards than lines some are empty, which is no error."""
    text = "\n".join(lines(5)) + "\n"
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as file:
        file.write(text)
    assert run("shard", tmp_path / "in.jsonl.gz", 7, "--dir", tmp_path / "d").returncode == 0
    assert b"".join(parts(tmp_path / "d")) == text.encode()
    outs = []
    for k in range(7):
        done = run("score", tmp_path / f"d/{k}.jsonl", "-o", tmp_path / f"{k}.out", "--model", MODELS / "demo-reward")
        assert done.returncode == 0, done.stderr
        outs.append((tmp_path / f"{k}.out").read_text())
    assert run("score", tmp_path / "in.jsonl.gz", "-o", tmp_path / "whole", "--model", MODELS / "demo-reward").returncode == 0
    assert "".join(outs) == (tmp_path / "whole").read_text() and outs[6] == ""


def test_zstd(tmp_path):
    text = ("\n".join(lines(50)) + "\n").encode()
    subprocess.run(["zstd", "-q", "-o", tmp_path / "in.jsonl.zst"], input=text, check=True)
    assert run("shard", tmp_path / "in.jsonl.zst", 4, "--dir", tmp_path / "d").returncode == 0
    assert b"".join(parts(tmp_path / "d")) == text


def test_lines_without_an_id_are_said(tmp_path):
    for text, says in (('{"text": "a"}\n', 1), ('{"custom_id": "a", "text": "a"}\n', 0), ('{"id": null, "text": "a"}\n', 1), ("not JSON\n", 0)):
        (tmp_path / "in.jsonl").write_text(text)
        done = run("shard", tmp_path / "in.jsonl", 1, "--dir", tmp_path / f"d{len(text)}")
        assert done.returncode == 0 and ("the first line has no id" in done.stderr) == bool(says), done


def test_refusals(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": 1, "ids": [1]}\n' * 5)

    def refused(code, words, *arguments, **more):
        before = sorted(tmp_path.rglob("*"))
        done = run("shard", *arguments, **more)
        assert done.returncode == code and words in done.stderr and sorted(tmp_path.rglob("*")) == before, done

    out = ["--dir", tmp_path / "d"]
    for n in ("0", "-1", "100001", "2x", "1e3", "", "99999999999999999999"):
        refused(64, "expected N, a number of shards from 1 to 100000", path, *(["--", n] if n == "-1" else [n]), *([] if n == "-1" else out))
    refused(64, "found nothing", path, *out)
    refused(64, "expected INPUT N, found nothing", *out)
    refused(64, "expected --dir DIR", path, 2)
    refused(64, "--dir: expected a new directory", path, 2, "--dir", tmp_path)
    refused(66, "none.jsonl", tmp_path / "none.jsonl", 2, *out)
    refused(66, "-", "-", 2, *out, input="{}\n")
    os.mkfifo(tmp_path / "pipe")
    refused(66, "pipe", tmp_path / "pipe", 2, *out)
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    refused(65, "expected JSON lines, found", tmp_path / "t.parquet", 2, *out)
    whole = gzip.compress(b'{"id": 1}\n' * 100000)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    refused(74, "cut.gz': it is damaged or cut off", tmp_path / "cut.gz", 2, *out)
    refused(74, "/nowhere/d.part", path, 2, "--dir", "/nowhere/d")
    (tmp_path / "d.part").mkdir()
    refused(64, "d.part exists: another run fills it, or one was killed; remove it then", path, 2, *out)
