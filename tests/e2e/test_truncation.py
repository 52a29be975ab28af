"""Rows that are too long: cut as the reference's tokenizers cut, at either end and to any length, and never otherwise than asked."""
import json
import pathlib
import shutil
import subprocess

import pytest
import tokenizers
from harness import BIN, MODELS, Broker, Refused, framed_model, ids_bytes, random_key

REWARD, PROCESS = MODELS / "demo-reward", MODELS / "demo-process"
ASSAY = str(BIN / "assay")
TEXT, Q = "12 + 34 = 46, then 46 - 5 = 41 ", "What is 37 + 48 - 12?"
SIDES = ["right", "left"]


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    """A tokenizer that puts one token before a text and one behind it."""
    directory = tmp_path_factory.mktemp("f")
    model = framed_model(directory / "model")
    with Broker(directory, model=model) as b:
        b.tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
        yield b


@pytest.fixture(scope="module")
def stepping(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("p"), model=PROCESS) as b:
        yield b


def score(broker, *rows):
    with broker.client() as client:
        return client.call("score", rows=list(rows))["rows"]


def same(broker, row, ids, **fields):
    """The row's result, which must be that of these ids."""
    cut, whole = score(broker, row, {"ids": ids_bytes(ids), **fields})
    assert cut["error"] is None and cut["n_tokens"] == len(ids), (row, cut)
    for key in ("score", "steps", "pooled_at"):
        assert cut.get(key) == whole.get(key), (row, key)
    return cut


def reference(tokenizer, text, n, side, special=True):
    tokenizer.enable_truncation(max_length=n, direction=side)
    ids = tokenizer.encode(text, add_special_tokens=special).ids
    tokenizer.no_truncation()
    return ids


def chatml(*messages):
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)


def by_score(broker, directory, rows, *options, code=1):
    (directory / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run([ASSAY, "score", str(directory / "in.jsonl"), "--connect", broker.endpoint, "--key", random_key(), *options],
                          capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()] if code < 2 else done.stderr


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n", [2, 3, 10, 20, 500])
def test_a_text_keeps_what_the_tokenizer_puts_around_it(framed, n, side):
    row = {"text": TEXT, "truncate": True, "max_length": n, "truncation_side": side}
    same(framed, row, reference(framed.tokenizer, TEXT, n, side))
    same(framed, {**row, "keep_last_token": True}, reference(framed.tokenizer, TEXT, n, side))
    same(framed, {**row, "add_special_tokens": False}, reference(framed.tokenizer, TEXT, n, side, special=False))


def test_to_the_brokers_limit_too(framed):
    ids = reference(framed.tokenizer, TEXT * 100, 1024, "right")
    assert ids[-1] == 298
    same(framed, {"text": TEXT * 100, "truncate": True}, ids)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n", [1, 7, 30])
def test_a_conversation_is_cut_as_it_is_written(framed, n, side):
    text = chatml(("user", Q), ("assistant", "73"))
    ids = reference(framed.tokenizer, text, n, side, special=False)
    whole = framed.tokenizer.encode(text, add_special_tokens=False).ids
    row = {"prompt": Q, "response": "73", "truncate": True, "max_length": n, "truncation_side": side}
    same(framed, row, ids)
    same(framed, {**row, "pool": {"type": "CLS"}}, ids, pool={"type": "CLS"})
    same(framed, {**row, "keep_last_token": True}, ids[:-1] + whole[-1:])  # of left it is the last one already


def test_each_sequence_is_cut_by_itself(framed):
    cut = {"truncate": True, "max_length": 20, "truncation_side": "left"}
    texts = ["7", "8" * 40, "9" * 41]
    rows = [{"prompt": Q, "response": text, **cut} for text in texts]
    *alone, many, pair, plain, left, right = score(
        framed, *rows, {"prompt": Q, "responses": texts, **cut}, {"prompt": Q, "chosen": texts[0], "rejected": texts[1], **cut},
        {"chosen": TEXT, "rejected": Q, **cut}, {"text": TEXT, **cut}, {"text": Q, **cut})
    assert many["scores"] == [row["score"] for row in alone] and many["n_tokens"] == 3 * 20
    assert [pair["chosen"], pair["rejected"]] == many["scores"][:2]
    assert [plain["chosen"], plain["rejected"]] == [left["score"], right["score"]]


def test_equal_where_the_cut_ids_are(framed):
    """Another cut is another row, for what is computed once as for the rest; the same ids are the same row."""
    with framed.client() as client:
        cut = {"text": TEXT, "truncate": True}
        rows = [{**cut, "max_length": 10}, {**cut, "max_length": 11}, {**cut, "max_length": 10, "truncation_side": "left"},
                {**cut, "max_length": 10, "truncation_side": "right", "keep_last_token": True}]
        key = random_key()
        reply = client.call("score", rows=rows, key=key)
        found = [row["score"] for row in reply["rows"]]
        assert len(set(found[:3])) == 3 and found[3] == found[0]
        assert client.call("status", job=key)["copied"] == 1
        with pytest.raises(Refused, match="key_reused"):
            client.call("score", rows=[{**row, "max_length": 12} for row in rows], key=key)


def test_positions_and_steps_beyond_the_cut(framed, stepping):
    ids, step = [5, 6, 298, 8, 9, 298, 11, 12], {"type": "STEP", "step_token": 298}
    cut = {"ids": ids_bytes(ids), "truncate": True, "max_length": 5}
    same(framed, {**cut, "pool": step}, ids[:5], pool=step)
    left = same(framed, {**cut, "pool": step, "truncation_side": "left"}, ids[3:], pool=step)
    assert left["pooled_at"] == [{"i": 2, "id": 298}]
    at = {"type": "POSITIONS", "positions": [4, 0]}
    same(framed, {**cut, "pool": at}, ids[:5], pool=at)
    codes = [score(framed, {**cut, **more})[0]["error"] for more in (
        {"pool": at, "truncation_side": "left"}, {"pool": at, "keep_last_token": True},
        {"pool": {"type": "POSITIONS", "positions": [5]}}, {"pool": step, "max_length": 2})]
    assert [e["code"] for e in codes] == ["bad_position"] * 3 + ["no_step_token"]
    assert "in place" in codes[0]["message"] and "first 4 tokens" in codes[1]["message"] and "0 to 4" in codes[2]["message"]
    same(framed, {**cut, "ids": ids_bytes(ids[:5]), "pool": at, "truncation_side": "left"}, ids[:5], pool=at)  # nothing was cut


def test_steps_are_cut_from_the_last_one_on(stepping):
    steps = ["37 + 48 = 85", "85 - 12 = 73", "so it is 73"]
    row = {"prompt": Q, "steps": steps}
    whole = score(stepping, row)[0]
    behind_second = whole["pooled_at"][1]["i"] + 2  # the next step has begun
    cut = {**row, "truncate": True, "max_length": behind_second}
    first, last = score(stepping, cut, {**cut, "keep_last_token": True})
    assert first["steps"] == whole["steps"][:2] == last["steps"]
    left = score(stepping, {**cut, "max_length": whole["n_tokens"] - whole["pooled_at"][0]["i"] - 1, "truncation_side": "left"})[0]
    assert left["error"]["code"] == "too_long" and "truncation_side right" in left["error"]["message"]
    beginning = {**cut, "max_length": whole["n_tokens"] - 5, "truncation_side": "left"}  # all steps are still there
    assert len(score(stepping, beginning)[0]["steps"]) == 3


BAD = [
    ({"max_length": 5}, "bad_request", "max_length", "with truncate: true"),
    ({"truncation_side": "left"}, "bad_request", "truncation_side", "with truncate: true"),
    ({"keep_last_token": True}, "bad_request", "keep_last_token", "with truncate: true"),
    ({"truncate": True, "truncation_side": "Left"}, "bad_request", "truncation_side", "expected right or left, found 'Left'"),
    ({"truncate": True, "max_length": 0}, "bad_request", "max_length", "1"),
    ({"truncate": True, "max_length": 1025}, "too_long", "max_length", "at most 1024, max_tokens_per_row, found 1025"),
    ({"truncate": True, "max_length": 1}, "too_long", "max_length", "2 tokens that the tokenizer puts around"),
]


@pytest.mark.parametrize("more,code,field,words", BAD)
def test_what_cannot_be_meant_is_refused_by_name(framed, tmp_path, more, code, field, words):
    row = {"text": TEXT, **more}
    line = by_score(framed, tmp_path, [row])[0]["error"]
    assert line["code"] == code and field in line["message"] and words in line["message"]
    if code == "bad_request":
        with pytest.raises(Refused) as refused:
            score(framed, row)
        assert refused.value.err["field"] == f"rows[0].{field}" and words in str(refused.value.err)
        return
    assert score(framed, row)[0]["error"] == line


def test_lines_and_options(framed, tmp_path):
    rows = [{"text": TEXT}, {"text": TEXT, "max_length": 9, "truncation_side": "left"}, {"text": TEXT, "max_length": 8},
            {"text": TEXT, "truncation_side": "right"}, {"text": TEXT, "keep_last_token": None}, {"text": TEXT, "max_length": "9"}]
    options = ["--truncate", "--max-length", "9", "--truncation-side", "left"]
    found = by_score(framed, tmp_path, rows, *options)
    ids = [reference(framed.tokenizer, TEXT, 9, "left")]
    tokens = framed.tokenizer.encode(chatml(("user", Q), ("assistant", "73")), add_special_tokens=False).ids
    ids.append(tokens[:8] + tokens[-1:])
    expected, last = by_score(framed, tmp_path, [{"input_ids": each} for each in ids], code=0)
    assert [row.get("score") for row in found] == [expected["score"], expected["score"], None, None, expected["score"], None]
    assert [row["error"] and row["error"]["message"].split(":")[0] for row in found] == [
        None, None, "max_length", "truncation_side", None, "max_length"]
    kept = by_score(framed, tmp_path, [{"prompt": Q, "response": "73"}], "--truncate", "--max-length", "9", "--keep-last-token", code=0)
    assert kept[0]["score"] == last["score"] != expected["score"]
    for option in (["--max-length", "9"], ["--truncation-side", "left"], ["--keep-last-token"]):
        assert f"{option[0]}: expected with --truncate" in by_score(framed, tmp_path, rows, *option, code=64)


OWN = [  # what the files say, the field that decides, what decides it
    ({"truncation_side": "left"}, None, "truncation_side", "right"),
    ({}, {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}, "truncation_side", "right"),
    ({"model_max_length": 12}, None, "max_length", 20),
    ({"max_len": 12}, None, "max_length", 20),
]


@pytest.mark.parametrize("config,truncation,field,value", OWN)
def test_the_checkpoints_own_truncation_is_asked_about(tmp_path, config, truncation, field, value):
    """Where the files would have a text cut otherwise than a row that says no more than truncate, the row must say it."""
    model = tmp_path / "model"
    shutil.copytree(REWARD, model)
    settings = model / "tokenizer_config.json"
    settings.write_text(json.dumps({**(json.loads(settings.read_text()) if settings.exists() else {}), **config}))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps({**tokenizer, "truncation": truncation}))
    with Broker(tmp_path, model=model, options=["--max-len", "24"]) as b:
        ids = tokenizers.Tokenizer.from_file(str(REWARD / "tokenizer.json")).encode(TEXT).ids
        assert len(ids) > 24
        cut = {"text": TEXT, "truncate": True}
        error = score(b, cut)[0]["error"]
        assert error["code"] == "bad_request" and error["message"].startswith(f"{field}: "), error
        same(b, {**cut, field: value}, ids[:value] if field == "max_length" else ids[:24])
        same(b, {"ids": ids_bytes(ids), "truncate": True}, ids[:24])  # ids are not the tokenizer's
        same(b, {"text": "1 + 2"}, tokenizers.Tokenizer.from_file(str(REWARD / "tokenizer.json")).encode("1 + 2").ids)
        assert score(b, {"text": TEXT})[0]["error"]["code"] == "too_long"


def test_a_side_at_which_the_reference_fails(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(REWARD, model)
    (model / "tokenizer_config.json").write_text(json.dumps({"truncation_side": "middle"}))
    found = subprocess.run([ASSAY, "tokenize", "x", "--model", str(model)], capture_output=True, text=True)
    assert found.returncode == 78 and "truncation_side: expected right or left, found middle" in found.stderr


# ---- of all rows of a message ----

CUT = {"truncate": True, "max_length": 9, "truncation_side": "left"}


@pytest.mark.parametrize("order", ["in front", "behind", "around"])
def test_a_message_says_it_for_its_rows(framed, order):
    """Wherever its fields stand. A row that has truncate says all of it itself."""
    own = {"text": TEXT, "truncate": True, "max_length": 12}
    rows = [{"text": TEXT}, {"ids": list(range(20))}, {"prompt": Q, "responses": ["73", TEXT]}, own, {"text": TEXT, "truncate": False},
            {"error": {"code": "bad_request", "message": "m"}}]
    fields = list({**CUT, "keep_last_token": False}.items())
    if order == "behind":
        said = {"rows": rows, **dict(fields)}
    else:
        said = {**dict(fields[:2 if order == "around" else 4]), "rows": rows, **dict(fields)}
    with framed.client() as client:
        found = client.call("score", **said)["rows"]
    expected = score(framed, *({**row, **CUT} for row in rows[:3]), *rows[3:])
    assert [row["n_tokens"] for row in found[:2]] == [9, 9] and found[3]["n_tokens"] == 12
    assert [{**row, "i": 0} for row in found] == [{**row, "i": 0} for row in expected]


def test_it_is_kept_with_the_rows_of_a_chunk(tmp_path):
    """Past a gap, over a kill. It is part of a chunk's contents."""
    row = {"text": TEXT}
    with Broker(tmp_path, model=REWARD) as broker, broker.client() as client:
        client.submit("late", [row] * 3, chunk=1, **CUT)
        assert client.submit("late", [row] * 3, chunk=1, **CUT)["accepted"] == 3
        for other in ({**CUT, "max_length": 10}, {**CUT, "keep_last_token": True}, {}):
            with pytest.raises(Refused, match="key_reused"):
                client.submit("late", [row] * 3, chunk=1, **other)
        broker.kill9()
    with Broker(tmp_path, model=REWARD) as broker, broker.client() as client:
        assert client.submit("late", [row] * 3, chunk=1, **CUT)["accepted"] == 3
        client.submit("late", [row], seal=False)
        found = {row["i"]: row for row in client.results("late")}
        expected, = client.call("score", rows=[{**row, **CUT}])["rows"]
    assert found[0]["n_tokens"] > 9 and [found[i]["score"] for i in (1, 2, 3)] == [expected["score"]] * 3
    assert expected["n_tokens"] == found[3]["n_tokens"] == 9


@pytest.mark.parametrize("fields, field", [
    ({"max_length": 5}, "max_length"), ({"truncate": False, "keep_last_token": True}, "keep_last_token"), ({"truncate": 1}, "truncate"),
    ({"truncate": True, "max_length": 0}, "max_length"), ({"truncate": True, "truncation_side": "Left"}, "truncation_side")])
def test_what_a_message_cannot_say(framed, fields, field):
    with framed.client() as client:
        for said in ({"rows": [{"text": TEXT}], **fields}, {**fields, "rows": [{"text": TEXT}]}):
            with pytest.raises(Refused) as refused:
                client.call("score", **said)
            assert refused.value.code == "bad_request" and refused.value.err["field"] == field
        with pytest.raises(Refused, match="truncate unknown field of status"):
            client.call("status", job=1, truncate=True)


def test_a_length_of_ones_own_holds_no_job(tmp_path):
    """Rows that say their length do not depend on the broker's limit, so their job goes on under another."""
    rows = [{"ids": list(range(30)), "truncate": True, "max_length": 8}, {"ids": list(range(40)), "truncate": True, "max_length": 9}]
    with Broker(tmp_path / "d", options=["--max-len", "10"]) as b, b.client() as client:
        client.submit("cut", rows[:1], seal=False)
    with Broker(tmp_path / "d", options=["--max-len", "20"]) as b, b.client() as client:
        assert client.call("status", job="cut")["state"] in ("open", "running")
        client.submit("cut", rows[1:], chunk=1)
        assert sorted(row["n_tokens"] for row in client.results("cut")) == [8, 9]


def test_another_length_begins_anew(tmp_path):
    lines, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    lines.write_text("".join(json.dumps({"text": f"{TEXT}{i}"}) + "\n" for i in range(20)))
    command = [ASSAY, "score", str(lines), "-o", str(out), "--model", str(REWARD), "--device", "cpu", "--truncate", "--max-length"]
    found = {}
    for n in ("9", "7", "9"):
        done = subprocess.run([*command, n], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.setdefault(n, []).append(out.read_text())
        assert {json.loads(line)["n_tokens"] for line in out.read_text().splitlines()} == {int(n)}
    assert found["9"][0] == found["9"][1] != found["7"][0]
