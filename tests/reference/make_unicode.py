"""Writes broker/text/unicode_ranges.c: which characters the reference's tokenizer calls letters, numbers and spaces, and which
of them its NFC can change. The reference is asked, character by character, because it follows no one version of Unicode: its
split patterns and its normalizer are of different ages.

    build/venv-reference/bin/python tests/reference/make_unicode.py
"""
import pathlib

import tokenizers
import unicodedata2 as unicode
from tokenizers import Regex, normalizers, pre_tokenizers

OUT = pathlib.Path(__file__).parents[2] / "broker/text/unicode_ranges.c"
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL_LEADS, HANGUL_SYLLABLES = range(0x1100, 0x1113), range(0xAC00, 0xD7A4)
nfc = normalizers.NFC().normalize_str


def members(pattern):
    """Characters that match a one-character pattern."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = []
    for at in range(0, len(ALL), 4096):
        part = ALL[at:at + 4096]
        left = set("".join(piece for piece, _ in split.pre_tokenize_str("".join(map(chr, part)))))
        found += [c for c in part if chr(c) not in left]
    return set(found)


def is_reordered(c):
    """Does the reference know this character as a combining mark? Between the classes 240 and 1 every mark moves."""
    mark = chr(c)
    return any(nfc(s) != s for s in ("q\u0345" + mark, "q" + mark + "\u0334"))


def pairs():
    """(first, second) of every pair that the reference composes."""
    for c in ALL:
        parts = unicode.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (int(p, 16) for p in parts)
            if nfc(chr(first) + chr(second)) == chr(c):
                yield first, second


def normalization():
    """tails: may change, or fuse with what stands before; heads: may fuse with what follows. Hangul syllables aside."""
    composed = list(pairs())
    tails = {c for c in ALL if nfc(chr(c)) != chr(c) or (unicode.combining(chr(c)) and is_reordered(c))}
    tails |= {second for _, second in composed} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    tails |= {c for c in (0x345, 0x334)}  # what is_reordered measures with
    # What decomposes is a head too: a mark behind it may get between its parts.
    apart = ((c, unicode.normalize("NFD", chr(c))) for c in ALL)
    heads = {first for first, _ in composed} | set(HANGUL_LEADS)
    heads |= {c for c, parts in apart if parts != chr(c) and nfc(parts) == unicode.normalize("NFC", chr(c))}
    return tails - set(HANGUL_SYLLABLES), heads - set(HANGUL_SYLLABLES)


def ranges(characters):
    out = []
    for c in sorted(characters):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def array(name, characters):
    items = [f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(characters)]
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 98:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return (f"const struct unicode_range unicode_{name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"
            f"const unsigned unicode_n_{name} = sizeof unicode_{name} / sizeof unicode_{name}[0];\n")


def main():
    tails, heads = normalization()
    sets = dict(letters=members(r"\p{L}"), numbers=members(r"\p{N}"), spaces=members(r"\s"), tails=tails, heads=heads)
    head = ("/* unicode_ranges.c - see unicode.h. Written by tests/reference/make_unicode.py from the\n"
            f" * behaviour of the tokenizers package {tokenizers.__version__}; do not edit by hand. */\n"
            "/* clang-format off */\n#include \"broker/text/unicode.h\"\n")
    OUT.write_text(head + "".join("\n" + array(name, s) for name, s in sets.items()))
    print({name: (len(s), len(ranges(s))) for name, s in sets.items()})


if __name__ == "__main__":
    main()
