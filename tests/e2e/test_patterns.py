"""Split patterns against the tokenizers package: each cuts every text at the same places, or is refused by name."""
import json
import os
import random
import subprocess
import sys

import pytest
import tokenizers
from harness import BIN, PATIENCE, ROOT

sys.path.insert(0, str(ROOT / "tests/text"))
import cases  # noqa: E402
import patterns  # noqa: E402
import vocabulary  # noqa: E402

# `make test-long` asks for a million; half of the random patterns are refused.
STRINGS = int(os.environ.get("ASSAY_STRINGS", "4000"))
EACH = 50


def tokenizer(step):
    """Each byte is a token, and each piece begins with a space: the ids show where the step cuts."""
    ranks = {bytes([b]): b for b in range(256)}
    return vocabulary.pre_tokenizer(vocabulary.base(ranks, ""), step, prefix=True)


def ids(directory, root, texts):
    """The ids of each text, None where a limit is reached; or the words of a refusal."""
    (directory / "tokenizer.json").write_text(json.dumps(root))
    (directory / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = subprocess.run([BIN / "assay", "tokenize", "--model", directory, "--jsonl", directory / "t.jsonl"], capture_output=True,
                          text=True, timeout=120 * PATIENCE)
    if done.returncode == 78:
        return done.stderr
    assert done.returncode in (0, 1), done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["ids"] is not None or "too many steps" in line["error"]["message"] for line in lines)
    return [line["ids"] for line in lines]


def compare(directory, step, texts):
    """Are the ids the reference's? False: the pattern is refused."""
    root = tokenizer(step)
    ours = ids(directory, root, texts)
    if isinstance(ours, str):
        assert "tokenizer.json: pre_tokenizer: Split.pattern: " in ours
        return False
    reference = tokenizers.Tokenizer.from_str(json.dumps(root))
    for text, found in zip(texts, ours):
        if found is None:
            continue
        try:
            expected = reference.encode(text).ids
        except BaseException as e:  # the package panics at its own limit
            assert "retry-limit" in str(e), step
            continue
        assert found == expected, (step, ascii(text))
    return True


@pytest.mark.parametrize("name", patterns.KNOWN)
def test_known_patterns(directory, name):
    texts = list(cases.strings(name, STRINGS // len(patterns.KNOWN)))
    for behavior in patterns.BEHAVIORS if STRINGS > 100_000 else ["Isolated"]:
        assert compare(directory, vocabulary.split(patterns.KNOWN[name], behavior), texts)


def test_random_patterns(directory):
    r, taken = random.Random(1), 0
    for pattern in patterns.random_patterns(1, STRINGS // EACH):
        step = vocabulary.split(pattern, r.choice(patterns.BEHAVIORS), r.random() < 0.2)
        taken += compare(directory, step, list(cases.strings(pattern, EACH)))
    assert taken > STRINGS // EACH // 3


def test_every_character_has_its_category(directory):
    """Each character alone, by a pattern for each set that a table decides."""
    some = [*range(0x3100), *range(0xA000, 0xAC10), *range(0xD700, 0xD800), *range(0xF8F0, 0x12000), *range(0x1D000, 0x1FC00)]
    every = [chr(c) for c in (range(0x110000) if STRINGS > 100_000 else some) if not 0xD800 <= c < 0xE000]
    texts = ["".join(every[k:k + 512]) for k in range(0, len(every), 512)]
    sets = r"\p{Lu}|\p{Lt}|\p{Lm}|\p{Mn}|\p{Mc}|\p{Nd}|\p{Nl}|\p{Pd}|\p{Po}|\p{Sm}|\p{Sk}|\p{So}|\p{Zs}|\p{Cf}|\p{Cn}|\p{Han}"
    for pattern in (sets, rf"\w+|(?:{sets})", r"[\w&&\P{L}]|\s+|\p{P}+"):
        assert compare(directory, vocabulary.split(pattern), texts)


@pytest.mark.parametrize("step", [{"type": "Digits", "individual_digits": True}, {"type": "Digits", "individual_digits": False},
                                  *({"type": "Punctuation", "behavior": b} for b in patterns.BEHAVIORS),
                                  *({"type": "Split", "pattern": {"String": "e"}, "behavior": b, "invert": i}
                                    for b in patterns.BEHAVIORS for i in (False, True))])
def test_other_steps(directory, step):
    every = [chr(c) for c in range(0x3000) if not 0xD800 <= c < 0xE000] + [chr(c) for c in range(0xF000, 0x1F000)]
    texts = list(cases.strings("steps", 200)) + ["".join(every[k:k + 512]) for k in range(0, len(every), 512)]
    assert compare(directory, step, texts)
