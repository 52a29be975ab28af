"""`assay tokenize` against the tokenizers package: the same ids for every text, with a vocabulary of full size."""
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest
import tokenizers
from harness import BIN, PATIENCE, ROOT, framed_model

sys.path.insert(0, str(ROOT / "tests/text"))
import cases  # noqa: E402
import vocabulary  # noqa: E402

ASSAY = str(BIN / "assay")
# `make test-long` asks for a million; sanitizers see the same code each time.
STRINGS = int(os.environ.get("ASSAY_STRINGS", "40000" if PATIENCE == 1 else "5000"))
BATCH = 20000
REAL_TEXT_BYTES = 6_000_000 if PATIENCE == 1 else 2_000_000


@pytest.fixture(scope="module", params=list(vocabulary.FORMS))
def form(request):
    directory = vocabulary.directory(request.param)
    return directory, tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def qwen():
    directory = vocabulary.directory("qwen")
    return directory, tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


def tokenize(model, texts, path, *options):
    """Ids of each text, by the program."""
    with open(path, "w") as f:
        f.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    done = subprocess.run([ASSAY, "tokenize", "--model", model, "--jsonl", path, *options], capture_output=True, text=True,
                          timeout=300 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["ids"] for line in done.stdout.splitlines()]


def compare(form, texts, directory):
    model, reference = form
    ours, theirs = tokenize(model, texts, directory / "texts.jsonl"), reference.encode_batch(texts)
    assert len(ours) == len(texts)
    for text, ids, expected in zip(texts, ours, theirs):
        assert ids == expected.ids, ascii(text)[:400]


def test_generated_strings(form, directory):
    """Half of the forms share a pattern with another, so a short run gives most strings to one."""
    share = STRINGS if form[0].name == "qwen" or STRINGS > 100_000 else STRINGS // 20
    for at in range(0, share, BATCH):
        compare(form, list(cases.strings(f"{form[0].name}-{at}", min(BATCH, share - at))), directory)


@pytest.mark.parametrize("form", ["qwen", "nfd", "nfkc", "nfkd", "lower"], indirect=True)
def test_every_character(form, directory):
    """Alone between letters, behind a space, and with marks around it. In a short run the other forms leave out planes in which
    nothing is assigned, and those of private use."""
    short = STRINGS <= 100_000 and (form[0].name != "qwen" or PATIENCE > 1)
    planes = [*range(0x32400), *range(0xE0000, 0xE0200)] if short else range(0x110000)
    every = [chr(c) for c in planes if not 0xD800 <= c < 0xE000]
    texts = ["".join(f"a{c}b {c}" for c in every[k:k + 64]) for k in range(0, len(every), 64)]
    texts += ["".join(f"e\u0323{c}\u0301" for c in every[k:k + 64]) for k in range(0, 0x20000, 64)]
    compare(form, texts, directory)


def real_texts(limit):
    """Documentation, sources, locale files of this machine: the same choice each time, in pieces of many sizes."""
    roots = [ROOT, pathlib.Path("/usr/share/doc"), pathlib.Path("/usr/share/i18n"), pathlib.Path("/usr/share/perl5"),
             pathlib.Path("/usr/lib/python3.11"), pathlib.Path("/usr/include")]
    files = [f for root in roots if root.is_dir() for f in sorted(root.rglob("*"))[:20000]
             if f.is_file() and not f.is_symlink() and "build" not in f.parts and ".git" not in f.parts]
    rng, size = random.Random(5), 0
    rng.shuffle(files)
    for file in files:
        try:
            text = file.read_bytes()[:200_000].decode()
        except (UnicodeDecodeError, OSError):
            continue
        size += len(text)
        if size > limit:
            return
        step = rng.choice([80, 1000, 20_000, 200_000])
        yield from (text[k:k + step] for k in range(0, len(text), step))


def test_real_text(qwen, directory):
    texts = list(real_texts(REAL_TEXT_BYTES))
    assert sum(map(len, texts)) > 500_000
    compare(qwen, texts, directory)


LONG = {
    "one letter": "a" * 1_000_000, "two letters": "ab" * 500_000, "spaces": " " * 1_000_000, "spaces and a word": " " * 999_999 + "a",
    "newlines": "\n" * 1_000_000, "space newline": " \n" * 500_000, "symbols": "!?" * 500_000, "digits": "7" * 1_000_000,
    "marks in order": "a" + "\u0323\u0301" * 250_000, "marks out of order": "a" + "\u0301\u0323" * 250_000,
    "hangul": "\u1112\u1161\u11ab" * 100_000, "han": "中文" * 200_000, "controls": "<|im_end|>" * 50_000, "half a control": "<|im_end|" * 100_000,
    "less than": "<" * 1_000_000, "quotes": "'s" * 400_000, "random letters": "".join(random.Random(3).choices("abcdefgh", k=1_000_000)),
}


@pytest.mark.parametrize("name", LONG)
def test_long_words(qwen, directory, name):
    started = time.monotonic()
    model, reference = qwen
    ours = tokenize(model, [LONG[name]], directory / "texts.jsonl")
    assert time.monotonic() - started < 20 * PATIENCE  # the square of a million would take hours
    assert ours[0] == reference.encode(LONG[name]).ids


def test_safe_text(qwen, directory):
    """A control token written out stays text: the ids say the same text, and none is a control's."""
    model, reference = qwen
    texts = ["a<|im_end|>b", "<|im_start|>system\nx<|im_end|>", "<tool_call>", "plain"]
    controls = {t["id"] for t in json.loads((model / "tokenizer.json").read_text())["added_tokens"]}
    for text, ids in zip(texts, tokenize(model, texts, directory / "t.jsonl", "--safe-text")):
        assert not controls & set(ids)
        assert reference.decode(ids, skip_special_tokens=False) == text
    assert controls & set(tokenize(model, texts[:1], directory / "t.jsonl")[0])


def test_safe_text_of_a_line(qwen, directory):
    """As in a row that is scored: the line says it, or the option; not one and the other."""
    text, path = {"text": "a<|im_end|>b"}, directory / "t.jsonl"
    lines = [text, {**text, "safe_text": True}, {**text, "safe_text": False}, {**text, "safe_text": None}, {**text, "safe_text": 1}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {}
    for option in ([], ["--safe-text"]):
        done = subprocess.run([ASSAY, "tokenize", "--model", qwen[0], "--jsonl", path, *option], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        found[bool(option)] = [json.loads(line) for line in done.stdout.splitlines()]
    plain, safe = [line["ids"] for line in found[False][:2]]
    assert plain != safe and [line["ids"] for line in found[False]] == [plain, safe, plain, plain, None]
    assert [line["ids"] for line in found[True]] == [safe, safe, None, safe, None]
    assert "found one in the line and another by an option" in found[True][2]["error"]["message"]
    assert all("expected true or false" in lines[4]["error"]["message"] for lines in found.values())


def test_special_tokens_of_a_line(directory):
    """Left out where the line says so, as in a row that is scored."""
    model, path = framed_model(directory / "model"), directory / "t.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "add_special_tokens": said}) + "\n" for said in (True, False, None, 0)))
    done = subprocess.run([ASSAY, "tokenize", "--model", model, "--jsonl", path], capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    (alone,) = found[1]["ids"]
    assert done.returncode == 1 and [line["ids"] for line in found] == [[295, alone, 298], [alone], [295, alone, 298], None]
    assert "add_special_tokens: line 4: expected true or false" in found[3]["error"]["message"]


def test_bad_lines(qwen, directory):
    lines = [b'{"text": "good"}', b'{"text": 5}', b'{"text": "\\ud800"}', b'{"text": "\xff"}', b'["text"]', b'{"text": "a", "text": "b"}',
             b'{"text": NaN}', b'{"words": "a"}', b'[' * 3000, b'{"text": "a\x00b"}', b'{"text": "a\\u0000b"}', b"", b'{"text": ""}']
    (directory / "bad.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    done = subprocess.run([ASSAY, "tokenize", "--model", qwen[0], "--jsonl", directory / "bad.jsonl"], capture_output=True, text=True)
    assert done.returncode == 1
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["ids"] is None for line in out] == [False] + [True] * 9 + [False, False]
    assert all("line " in line["error"]["message"] for line in out[1:10])
    assert out[-1] == {"ids": []} and out[-2]["ids"] == qwen[1].encode("a\0b").ids


def test_pieces(qwen):
    done = subprocess.run([ASSAY, "tokenize", "naïve 日本<|im_end|>\n", "--model", qwen[0]], capture_output=True, text=True)
    assert done.returncode == 0 and "'<|im_end|>'" in done.stdout and "\\x0a" in done.stdout
    assert done.stdout.splitlines()[-1] == f"{len(qwen[1].encode('naïve 日本<|im_end|>' + chr(10)).ids)} tokens"
    stdin = subprocess.run([ASSAY, "tokenize", "-", "--json", "--model", qwen[0]], input="two words", capture_output=True, text=True)
    assert json.loads(stdin.stdout)["ids"] == qwen[1].encode("two words").ids
    nothing = subprocess.run([ASSAY, "tokenize", "x", "--model", "/nowhere"], capture_output=True, text=True)
    assert nothing.returncode == 78 and "/nowhere" in nothing.stderr
