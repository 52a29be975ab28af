"""Compares the interpreter of chat templates with jinja2, as transformers sets it up, on every template that two Python packages
carry: about 140 published ones. They are other people's text, fetched each time and never kept.

    build/venv-reference/bin/python tests/reference/compare_templates.py build/cpu/tests/e2e/render_template [FOLDER ..]

FOLDERs of *.jinja take the place of the packages. Each template gets the same generated conversations; text and refusal must be
the same. What this interpreter refuses and jinja2 does not is listed with its reason, and fails the run too.
"""
import collections
import datetime
import json
import pathlib
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from transformers.utils import chat_template_utils

PACKAGES = ("trl==1.16.0", "llama-cpp-python==0.3.36")
SEED, N_DRAWN = 21, 60
DAY = "2024-07-26"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Today(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(DAY)


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


TOOL = {"type": "function", "function": {
    "name": "add", "description": "Adds two numbers.\nBoth, \"é\" <4>.",
    "parameters": {"type": "object", "required": ["a"], "properties": {
        "a": {"type": "number", "description": "one", "enum": [1, 2.5]}, "b": {"type": ["number", "null"], "default": None},
        "c": {"type": "array", "items": {"type": "string"}}, "d": {"type": "object", "properties": {"x": {"type": "boolean"}}}}},
    "return": {"type": "number", "description": "the sum"}}}
SYSTEM, USER, ANSWER = message("system", "Be brief."), message("user", "2 + 2?"), message("assistant", "4.")
CONTENTS = ["", " ", "\n", "It is 4.", "  padded \n", "四 é \u3000 \x85x", "<think>a\nb</think>\n\nc", "</think>", "<think>", "x</think>y</think>z",
            "<|im_end|>", "a\r\nb\rc", "'\"\\{{ x }}{% y %}", "<tool_response>4</tool_response>", "\0\x1f", "[INST] [/INST]", "😀 ﬁ ß"]
FIXED = [
    [], [USER], [USER, ANSWER], [SYSTEM, USER, ANSWER], [USER, ANSWER, USER, ANSWER], [USER, ANSWER, USER], [SYSTEM], [ANSWER],
    [SYSTEM, USER], [USER, USER, ANSWER], [USER, ANSWER, ANSWER], [USER, SYSTEM, ANSWER], [SYSTEM, SYSTEM, USER, ANSWER],
    [message("developer", "Be kind."), USER, ANSWER], [USER, message("critic", "no")], [USER, message("assistant", None)],
    [USER, message("assistant", "4.", reasoning_content="2 and 2\n")], [USER, message("assistant", "", reasoning_content="\nso\n"), USER, ANSWER],
    [USER, message("assistant", "4.", reasoning_content=None)],
    [message("user", [{"type": "text", "text": "2 + 2?"}]), ANSWER],
    [message("system", [{"type": "text", "text": "Be."}]), message("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), ANSWER],
    [USER, message("assistant", [{"type": "text", "text": "4"}]), USER, ANSWER],
]
TOOL_TALK = [
    [USER, message("assistant", "", tool_calls=[call("add", {"a": 2, "b": 2.5})]), message("tool", "4"), ANSWER],
    [USER, message("assistant", "So.", tool_calls=[call("add", {"a": "x\"é\n", "b": None, "c": [1, "two"], "d": {"x": True}}, id="call12345")]),
     message("tool", "4", name="add", tool_call_id="call12345"), ANSWER],
    [USER, message("assistant", None, tool_calls=[call("add", {}), call("add", {"a": 1})]), message("tool", "1"), message("tool", "{\"x\": 2}"),
     ANSWER, USER, ANSWER],
    [SYSTEM, USER, message("assistant", "<think>t</think>", tool_calls=[call("add", "{\"a\": 1}")]), message("tool", "1")],
    [USER, message("assistant", "", reasoning_content="hm", tool_calls=[call("add", {"a": 1})]), message("tool", ["x"]), ANSWER],
]


def drawn(rng):
    roles = rng.choices(["user", "assistant", "user", "assistant", "system", "tool"], k=rng.randint(1, 6)) if rng.random() < 0.4 else \
        (["system"] if rng.random() < 0.4 else []) + ["user", "assistant"] * rng.randint(1, 3) + (["user"] if rng.random() < 0.2 else [])
    out = []
    for role in roles:
        out.append(message(role, "".join(rng.choices(CONTENTS, k=rng.randint(0, 2)))))
        if role == "assistant" and rng.random() < 0.15:
            out[-1]["reasoning_content"] = rng.choice(CONTENTS)
    return out


def cases(rng):
    """Variables of a template: (messages, others)."""
    for talk in FIXED + [drawn(rng) for _ in range(N_DRAWN)]:
        yield talk, {}
    for talk in TOOL_TALK + FIXED[2:4]:
        yield talk, {"tools": [TOOL, {**TOOL, "function": {"name": "bare", "description": "", "parameters": {"type": "object", "properties": {}}}}]}
        yield talk, {}
    for more in ({"add_generation_prompt": True}, {"enable_thinking": False}, {"enable_thinking": True, "add_generation_prompt": True}):
        yield FIXED[3], more
        yield FIXED[17], more


def variables(talk, more):
    return {"messages": chat_template_utils._alias_reasoning_fields(talk), "tools": None, "documents": None,
            "add_generation_prompt": False, **TOKENS, **more}


def expected(template, values):
    """(text, None), or (None, why)."""
    try:
        return chat_template_utils._compile_jinja_template(template).render(**values), None
    except Exception as refused:  # whatever a template raises, its text is not to be had
        return None, f"{type(refused).__name__}: {refused}"


def fetch():
    """{name: template} of the packages."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *PACKAGES], check=True)
        found = {}
        for archive in pathlib.Path(folder).iterdir():
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as whl:
                    found |= {n: whl.read(n).decode() for n in whl.namelist() if n.endswith(".jinja")}
            else:
                with tarfile.open(archive) as tar:
                    found |= {m.name: tar.extractfile(m).read().decode() for m in tar if m.name.endswith(".jinja")}
    assert len(found) > 100, f"expected more than 100 templates, found {len(found)}"
    return found


def main():
    program, *folders = sys.argv[1:]
    chat_template_utils.datetime = Today
    templates = {p.name: p.read_bytes().decode() for f in folders for p in pathlib.Path(f).glob("*.jinja")} if folders else fetch()
    talks = [variables(*case) for case in cases(random.Random(SEED))]
    lines = [json.dumps({"template": t, "variables": v, "date": DAY}, ensure_ascii=False) for t in templates.values() for v in talks]
    done = subprocess.run([program], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    answers = iter(map(json.loads, done.stdout.split("\n")))
    counts, ours, differ = collections.Counter(), collections.Counter(), []
    for name, template in sorted(templates.items(), key=lambda item: list(templates).index(item[0])):
        for values in talks:
            (text, why), found = expected(template, values), next(answers)
            if text is not None and found.get("text") == text:
                counts["same text"] += 1
            elif text is None and "error" in found:
                counts["refused by both"] += 1
            elif "error" in found:
                ours[(pathlib.Path(name).name, found["error"])] += 1
            else:
                differ.append((pathlib.Path(name).name, values["messages"], text if text is not None else why, found["text"]))
    for (name, error), n in sorted(ours.items()):
        print(f"refused here alone, {n} times: {name}: {error}")
    for name, talk, text, found in differ[:20]:
        print(f"DIFFERENT: {name}\n  {json.dumps(talk, ensure_ascii=False)}\n  expected {text!r}\n  found    {found!r}")
    print(f"{len(templates)} templates, {len(talks)} conversations: {dict(counts)}, refused here alone {sum(ours.values())}, different {len(differ)}")
    sys.exit(bool(differ or ours))


if __name__ == "__main__":
    main()
