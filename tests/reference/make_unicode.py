"""Writes broker/text/unicode_ranges.c and unicode_categories.c: which category each character has in the reference's patterns,
what it calls words, digits, punctuation and spaces, what its normal forms can change, what it calls accents, and its lower case.
The reference is asked, character by character, because it follows no one version of Unicode: its patterns, its normalizer and the rest are of different ages.

    build/venv-reference/bin/python tests/reference/make_unicode.py
"""
import pathlib

import tokenizers
import unicodedata2 as unicode
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

OUT = pathlib.Path(__file__).parents[2] / "broker/text"
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL_LEADS, HANGUL_SYLLABLES = range(0x1100, 0x1113), range(0xAC00, 0xD7A4)
nfc, nfd, nfkd = (normalizer().normalize_str for normalizer in (normalizers.NFC, normalizers.NFD, normalizers.NFKD))


def members(pattern):
    """Characters that match a one-character pattern."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = []
    for at in range(0, len(ALL), 4096):
        part = ALL[at:at + 4096]
        left = set("".join(piece for piece, _ in split.pre_tokenize_str("".join(map(chr, part)))))
        found += [c for c in part if chr(c) not in left]
    return set(found)


def cut_alone(pre_tokenizer):
    """Characters that the pre-tokenizer cuts from the letters around them."""
    found = set()
    for at in range(0, len(ALL), 4096):
        text = "a" + "".join(chr(c) + "a" for c in ALL[at:at + 4096])
        pieces = pre_tokenizer.pre_tokenize_str(text)
        found |= {ord(piece) for piece, (begin, end) in pieces if end - begin == 1 and piece != "a"}
    return found


def word_ends():
    """Characters behind which a token marked single_word is not found."""
    tokenizer, mark, found = Tokenizer(models.WordLevel({"?": 0}, unk_token="?")), "[[]]", set()
    tokenizer.add_tokens([AddedToken(mark, single_word=True, normalized=False)])
    for at in range(0, len(ALL), 4096):
        part = ALL[at:at + 4096]
        encoding = tokenizer.encode("".join(f" {chr(c)}{mark}" for c in part))
        places = {begin for i, (begin, _) in zip(encoding.ids, encoding.offsets) if i == 1}
        found |= {c for k, c in enumerate(part) if k * (len(mark) + 2) + 2 not in places}
    return found


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


def compatible():
    """Characters that NFKC and NFKD change and NFC and NFD do not. What the other forms make of one is that of any Unicode."""
    found = {c for c in ALL if nfkd(chr(c)) != nfd(chr(c))}
    assert all(nfkd(chr(c)) == unicode.normalize("NFKD", chr(c)) for c in found)
    assert all(nfd(chr(c)) in (chr(c), unicode.normalize("NFD", chr(c))) for c in ALL)
    return found


def lower_runs():
    """[first, last, step, shift]: each step-th character from first to last has its small letter `shift` further on."""
    lower, runs = normalizers.Lowercase().normalize_str, []
    pairs = [(c, lower(chr(c))) for c in ALL if lower(chr(c)) != chr(c)]
    assert [c for c, small in pairs if len(small) > 1] == [0x130]  # the normalizer's own
    for c, shift in ((c, ord(small) - c) for c, small in pairs if c != 0x130):
        last = runs[-1] if runs else None
        step = c - last[1] if last else 0
        if last and last[3] == shift and step in (1, 2) and last[2] in (step, 0):
            last[1:3] = c, step
        else:
            runs.append([c, c, 0, shift])
    return [[first, last, step or 1, shift] for first, last, step, shift in runs]


def ranges(characters):
    out = []
    for c in sorted(characters):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def array(name, characters):
    return table("range", name, [f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(characters)])


def table(kind, name, items):
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 98:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return (f"const struct unicode_{kind} unicode_{name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"
            f"const unsigned unicode_n_{name} = sizeof unicode_{name} / sizeof unicode_{name}[0];\n")


def head(name):
    return (f"/* {name} - see unicode.h. Written by tests/reference/make_unicode.py from the\n"
            f" * behaviour of the tokenizers package {tokenizers.__version__}; do not edit by hand. */\n"
            "/* clang-format off */\n#include \"broker/text/unicode.h\"\n")


def write_categories(of):
    """of: category by code point. One run each, up to the next one's first character."""
    runs = [(c, of[c]) for c in ALL if of.get(c - 1) != of[c] or c == 0xE000]
    items, lines = [f"{{0x{c:x}, UNICODE_{category.upper()}}}," for c, category in runs], []
    for at in range(0, len(items), 4):
        lines.append("    " + " ".join(items[at:at + 4]))
    (OUT / "unicode_categories.c").write_text(
        head("unicode_categories.c") + "\nconst struct unicode_run unicode_runs[] = {\n" + "\n".join(lines) + "\n};\n"
        "const unsigned unicode_n_runs = sizeof unicode_runs / sizeof unicode_runs[0];\n")


def main():
    sets = {category: members(rf"\p{{{category}}}") for category in CATEGORIES}
    write_categories({c: category for category, found in sets.items() for c in found})

    def union(*names):
        return set().union(*(found for category, found in sets.items() if category in names or category[0] in names))
    tails, heads = normalization()
    word = members(r"[\w]")
    ascii_punctuation = {c for c in range(0x21, 0x7F) if not chr(c).isalnum()}
    assert members(r"\d") == sets["Nd"]
    accents = {c for c in ALL if normalizers.StripAccents().normalize_str(chr(c)) == ""}
    tables = dict(spaces=members(r"\s"), han=members(r"\p{Han}"), tails=tails, heads=heads,
                  words_but=word ^ union("L", "M", "Nd", "Pc"), words_alone=members(r"\w") - word,
                  single_words_but=word_ends() ^ word,
                  digits_but=cut_alone(pre_tokenizers.Digits(individual_digits=True)) ^ union("N"),
                  punctuation_but=cut_alone(pre_tokenizers.Punctuation()) ^ union("P") ^ (ascii_punctuation - union("P")),
                  compatible=compatible(), accents=accents)
    lowers = table("lower_run", "lowers", [f"{{{{0x{a:x}, 0x{b:x}}}, {step}, {shift}}}" for a, b, step, shift in lower_runs()])
    (OUT / "unicode_ranges.c").write_text(
        head("unicode_ranges.c") + "".join("\n" + array(name, s) for name, s in tables.items()) + "\n" + lowers)
    print({name: (len(s), len(ranges(s))) for name, s in tables.items()})


if __name__ == "__main__":
    main()
