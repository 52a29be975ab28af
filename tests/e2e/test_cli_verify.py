"""assay verify: what is stored is what comes out again, and one changed bit is found."""
import json
import shutil
import sqlite3
import struct
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, Broker

PROCESS = MODELS / "process"
STEP = 250  # any token will do as the end of a step
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
           r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ONE = {"type": "LAST", "activation": "class1"}


def byte_tokenizer():
    """A tokenizer.json in which a byte is a token."""
    printable = [b for b in range(256) if 0x21 <= b <= 0x7e or 0xa1 <= b and b != 0xad]
    others = iter(range(256, 512))
    vocab = {chr(b if b in printable else next(others)): b for b in range(256)}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {"version": "1.0", "added_tokens": [], "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, letters]},
            "decoder": letters, "post_processor": None, "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def verify(broker, *args):
    command = [BIN / "assay", "verify", "shapes", "--data", broker.data, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE, stdin=subprocess.DEVNULL)


def rows():
    """Every kind of result: one number, a vector, a number or a vector each position, several sequences."""
    plain = [{"ids": [7 * k % 250 for k in range(n)], "id": f"r{n}"} for n in range(1, 60)]
    return [
        *({**row, "pool": ONE} for row in plain),
        *({**row, "pool": {"type": kind}} for row in plain[:20] for kind in ("MEAN", "CLS", "ALL", "LAST")),
        {"ids": [1, STEP, 2, STEP, 3], "pool": {"type": "STEP", "step_token": STEP}, "id": 2**63 - 1},
        {"ids": [5, 6, 7, 8], "pool": {"type": "POSITIONS", "positions": [3, 0, 3], "activation": "sigmoid"}},
        {"ids": [5, 6, 7, 0, 0], "pool": ONE, "hf_pad_rule": True},
        {"chosen": "two and two make four", "rejected": "two and two make five", "pool": ONE, "id": "pair"},
        {"chosen": "x", "rejected": "y" * 300, "pool": {"type": "MEAN", "activation": "class1"}},
        {"ids": [], "id": "bad"},
    ]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    model = tmp_path_factory.mktemp("m") / "process"
    shutil.copytree(PROCESS, model)
    (model / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    with Broker(tmp_path_factory.mktemp("v") / "d", model=model, options=["--max-batch-tokens", 512]) as b:
        with b.client() as client:
            client.submit("shapes", rows())
            found = client.results("shapes")
        assert [r["id"] for r in found if r["error"]] == ["bad"], found
        yield b


def test_all_equal(broker):
    n = len(rows()) - 1
    done = verify(broker, "--sample", 1000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{n} rows scored again, {n} equal in every bit, 0 not" in done.stdout
    sample = json.loads(verify(broker, "--sample", 7, "--json").stdout)
    assert (sample["compared"], sample["equal"], sample["differ"], sample["key"]) == (7, 7, [], "shapes")


def test_what_it_needs(broker, directory):
    assert verify(broker, "--connect", broker.endpoint).returncode == 0  # --data is there as well
    command = [BIN / "assay", "verify", "shapes", "--connect", broker.endpoint]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 64 and "--data" in done.stderr
    command = [BIN / "assay", "verify", "unknown", "--data", broker.data]
    assert subprocess.run(command, capture_output=True).returncode == 65
    command = [BIN / "assay", "verify", "shapes", "--data", directory]
    assert subprocess.run(command, capture_output=True).returncode == 66
    assert verify(broker, "--sample", "0").returncode == 64


def flip(broker, client_id, column, make):
    """Change one stored value of the row, the broker being down."""
    database = sqlite3.connect(broker.data / "assay.db")
    (row, value), = database.execute(
        f"select result.row, {column} from result join row using (row) "
        "where client_id = ? and error_code is null limit 1",
        (client_id,))
    database.execute(f"update result set {column} = ? where row = ?", (make(value), row))
    database.commit()
    database.close()
    return row & 0xffffffff


def test_one_bit_is_found(broker):
    def next_float(value):
        return struct.unpack("<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", value))[0] ^ 1))[0]

    def last_bit(blob):
        return blob[:-4] + bytes([blob[-4] ^ 1]) + blob[-3:]

    broker.stop()
    broker.log.close()
    one, second_of_pair = flip(broker, "r33", "score", next_float), flip(broker, "pair", "vector", last_bit)
    broker.start()
    done = verify(broker, "--sample", 1000)
    n = len(rows()) - 1
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{n} rows scored again, {n - 2} equal in every bit, 2 not" in done.stdout
    assert f'row {one}, id "r33": stored ' in done.stdout
    assert f'row {second_of_pair}, id "pair": value 1 of 2: stored ' in done.stdout
    differ = json.loads(verify(broker, "--sample", 1000, "--json").stdout)["differ"]
    assert [d["id"] for d in differ] == ["r33", "pair"] and differ[0]["stored"] != differ[0]["now"]
    assert differ[1]["stored"][0] == differ[1]["now"][0]


def test_damaged_token_ids_are_named(broker):
    broker.stop()
    broker.log.close()
    database = sqlite3.connect(broker.data / "assay.db")
    (row, ids), = database.execute("select row_input.row, ids from row_input order by row limit 1")
    database.execute("update row_input set ids = ? where row = ?", (bytes([ids[0] ^ 64]) + ids[1:], row))
    database.commit()
    database.close()
    broker.start()
    done = verify(broker, "--sample", 1000)
    assert done.returncode == 78 and "its token ids" in done.stderr and "damaged" in done.stderr, done.stderr


def with_pad(model, to, token):
    shutil.copytree(MODELS / model, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "pad_token_id": token}))
    return to


@pytest.mark.parametrize("model, token, options, rules", [("seqcls", 7, [], (None, True, False)), ("seqcls", 7, ["--hf-pad-rule", "off"], (None, True, False)),
                                                          ("recipe-inform", 5, ["--recipe", "inf-orm"], (None, True))])
def test_rows_that_end_in_pad_tokens(directory, tmp_path, model, token, options, rules):
    """What was pooled counts, whatever the rule about pad tokens is now."""
    ids = [[1, 2, 3, token, token], [1, 2, 3], [token], [1, token, 3]]
    rows = [{"ids": each, **({} if rule is None else {"hf_pad_rule": rule})} for each in ids for rule in rules]
    with Broker(directory / "d", model=with_pad(model, tmp_path / "m", token), options=options) as b, b.client() as client:
        client.submit("shapes", rows)
        assert not any(row["error"] for row in client.results("shapes"))
        done = verify(b)
        assert done.returncode == 0 and f"{len(rows)} equal in every bit, 0 not" in done.stdout, done.stdout
