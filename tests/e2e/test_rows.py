"""What a row means: each column of a data set's row, and each field of a message's, is used as the references use it, or is the
row's error by name. Expected scores are those of the text that the row stands for."""
import json
import struct
import subprocess
import sys

import pytest
from harness import BIN, MODELS, PATIENCE, Broker, framed_model, random_key

REWARD = MODELS / "demo-reward"
Q, OTHER = "What is 37 + 48 - 12?", "What is 5 + 6?"


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def chatml(*messages):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("t"), model=REWARD) as b:
        yield b


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("q"), model=REWARD, options=["--chat-template", "qwen3"]) as b:
        yield b


def by_socket(broker, *rows):
    with broker.client() as client:
        return client.call("score", rows=list(rows))["rows"]


def float32s(v):
    """Nine digits of a line as the float32 that they are."""
    if isinstance(v, (dict, list)):
        return {key: float32s(item) for key, item in v.items()} if isinstance(v, dict) else [float32s(item) for item in v]
    return struct.unpack("f", struct.pack("f", v))[0] if isinstance(v, float) else v


def by_lines(broker, *lines, options=()):
    """Through `assay score`: a result for each line, in order."""
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    done = subprocess.run([BIN / "assay", "score", "-", "--connect", broker.endpoint, "--key", random_key(), *options], input=data,
                          capture_output=True, timeout=200 * PATIENCE)
    results = [float32s(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(results) == len(lines), done.stderr
    return results


def plain(broker, *texts):
    return [row["score"] for row in by_socket(broker, *({"text": text} for text in texts))]


A, B = answer("73"), answer("74")
TALK = [user(OTHER), answer("11")]
# (row, chosen's conversation, rejected's)
PAIRS = [
    ({"prompt": Q, "chosen": "73", "rejected": "74"}, [user(Q), A], [user(Q), B]),
    ({"prompt": Q, "chosen": [A], "rejected": [B]}, [user(Q), A], [user(Q), B]),
    ({"prompt": [user(Q)], "chosen": [A], "rejected": [B]}, [user(Q), A], [user(Q), B]),
    # whole conversations, and a prompt that is their beginning: not written twice
    ({"prompt": Q, "chosen": [user(Q), A], "rejected": [user(Q), B]}, [user(Q), A], [user(Q), B]),
    ({"prompt": [user(Q)], "chosen": [user(Q), A], "rejected": [user(Q), B]}, [user(Q), A], [user(Q), B]),
    ({"prompt": Q, "chosen": [system("s"), user(Q), A], "rejected": [system("s"), user(Q), B]},
     [system("s"), user(Q), A], [system("s"), user(Q), B]),
    ({"prompt": [user(Q)], "chosen": [system("s"), user(Q), A], "rejected": [user(Q), B]},
     [system("s"), user(Q), A], [user(Q), B]),
    ({"prompt": Q, "chosen": [*TALK, user(Q), A], "rejected": [*TALK, user(Q), B]}, [*TALK, user(Q), A], [*TALK, user(Q), B]),
    ({"prompt": [*TALK, user(Q)], "chosen": [*TALK, user(Q), A], "rejected": [B]}, [*TALK, user(Q), A], [*TALK, user(Q), B]),
    # what follows the prompt may begin with a question where the prompt ends in an answer or is a system message
    ({"prompt": TALK, "chosen": [user(Q), A], "rejected": [user(Q), B]}, [*TALK, user(Q), A], [*TALK, user(Q), B]),
    ({"prompt": [system("s")], "chosen": [user(Q), A], "rejected": [user(Q), B]},
     [system("s"), user(Q), A], [system("s"), user(Q), B]),
    # question and problem are prompts; system is a system message, once
    ({"question": Q, "chosen": "73", "rejected": "74"}, [user(Q), A], [user(Q), B]),
    ({"problem": Q, "chosen": [user(Q), A], "rejected": [B]}, [user(Q), A], [user(Q), B]),
    ({"system": "Be brief.", "question": Q, "chosen": "73", "rejected": "74"},
     [system("Be brief."), user(Q), A], [system("Be brief."), user(Q), B]),
    ({"system": "s", "chosen": [user(Q), A], "rejected": [system("s"), user(Q), B]},
     [system("s"), user(Q), A], [system("s"), user(Q), B]),
    ({"system": "", "prompt": Q, "chosen": "73", "rejected": "74"}, [user(Q), A], [user(Q), B]),
    # an answer may say the question again, where only one does
    ({"prompt": "37 + 36", "chosen": "37 + 36 = 73", "rejected": "74"},
     [user("37 + 36"), answer("37 + 36 = 73")], [user("37 + 36"), B]),
]


PAIR_LINES = [  # what only lines have: the same conversation under another name
    ({"prompt": Q, "messages": [user(Q), A], "chosen": [user(Q), A], "rejected": [user(Q), B]}, [user(Q), A], [user(Q), B]),
    ({"prompt": Q, "messages": [{**user(f" {Q}\n"), "name": "Ann", "weight": 1}, {**A, "tool_calls": [], "reasoning_content": None}],
      "chosen": "73", "rejected": "74", "text": "73"}, [user(Q), A], [user(Q), B]),
    ({"messages": [], "text": "", "prompt": Q, "chosen": "73", "rejected": "74"}, [user(Q), A], [user(Q), B]),
]


@pytest.mark.parametrize("ask,cases", [(by_socket, PAIRS), (by_lines, PAIRS + PAIR_LINES)], ids=["socket", "lines"])
def test_pairs(running, ask, cases):
    found = ask(running, *(row for row, _, _ in cases))
    expected = plain(running, *(chatml(*talk) for _, *talks in cases for talk in talks))
    for k, (row, *_) in enumerate(cases):
        assert found[k]["error"] is None, (row, found[k])
        assert [found[k]["chosen"], found[k]["rejected"]] == expected[2 * k:2 * k + 2], row


ONE = [  # (row, the conversation that it stands for)
    ({"prompt": Q, "response": [A]}, [user(Q), A]),
    ({"prompt": [user(Q)], "completion": [A]}, [user(Q), A]),
    ({"prompt": Q, "completion": [user(Q), A]}, [user(Q), A]),
    ({"question": Q, "response": "73"}, [user(Q), A]),
    ({"problem": Q, "completion": "73"}, [user(Q), A]),
    ({"system": "s", "prompt": Q, "response": "73"}, [system("s"), user(Q), A]),
    ({"system": "s", "messages": [user(Q), A]}, [system("s"), user(Q), A]),
    ({"prompt": Q, "messages": [user(Q), A]}, [user(Q), A]),
    ({"prompt": Q, "messages": [system("s"), user(Q), A]}, [system("s"), user(Q), A]),
    ({"messages": [user(Q), answer("73", tool_calls=[], reasoning_content=None)]}, [user(Q), A]),
    ({"messages": [user(Q), answer("73", tool_calls=None)], "tools": []}, [user(Q), A]),
    ({"messages": [user(Q), answer("73", reasoning_content="not read by ChatML", tool_calls=[{"f": {"a": [[1]]}}])],
      "tools": [{"type": "function", "function": {"parameters": {"properties": {"x": {"enum": ["a", "b"]}}}}}]}, [user(Q), A]),
    ({"prompt": Q, "response": Q + " 73"}, [user(Q), answer(Q + " 73")]),
    # a template's own arguments, and transformers' where they say what holds anyway
    ({"messages": [user(Q), A], "chat_template_kwargs": {"date_string": "1 Jan", "enable_thinking": None}}, [user(Q), A]),
    ({"messages": [user(Q), A], "chat_template_kwargs": {"continue_final_message": False, "chat_template": None, "tools": None}}, [user(Q), A]),
]
ONE_LINE = [  # what only lines have
    ({"system_prompt": "s", "question": Q, "response": "73"}, [system("s"), user(Q), A]),
    ({"prompt": f"Solve: {Q}", "question": f" {Q}\n", "response": "73", "answer": "73"}, [user(f"Solve: {Q}"), A]),
    ({"prompt": Q, "response": "73", "completion": "73"}, [user(Q), A]),
    ({"prompt": Q, "response": "73", "instruction": Q, "input": "", "context": None, "images": [], "documents": []}, [user(Q), A]),
    ({"prompt": Q, "response": "73", "query": "what to search for"}, [user(Q), A]),
    ({"prompt": Q, "response": "73", "ids": ["x9", "x7"]}, [user(Q), A]),
    ({"prompt": f"Solve 6: {Q}", "response": "73", "input": "6"}, [user(f"Solve 6: {Q}"), A]),
    ({"prompt": Q, "response": "73", "conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": "73 "}]}, [user(Q), A]),
    ({"messages": [user(OTHER), B, user(Q), A], "history": [OTHER, "74"]}, [user(OTHER), B, user(Q), A]),
    ({"prompt": Q, "response": "73", "messages": [user(Q), A], "text": f"Question: {Q}\nAnswer: 73"}, [user(Q), A]),
    ({"messages": [user(Q), A], "text": chatml(user(Q), A)}, [user(Q), A]),
    ({"messages": [user(Q), A], "query": "what to search for"}, [user(Q), A]),
    ({"prompt": Q, "response": "<think>\nx\n</think>\n\n73", "thinking": "x"}, [user(Q), answer("<think>\nx\n</think>\n\n73")]),
    ({"prompt": Q, "response": "73", "score": 1.5, "label": True, "source": "x", "meta": {"a": [1]}, "split": "t"}, [user(Q), A]),
    ({"prompt": Q, "response": "73", "enable_thinking": False, "chat_template_kwargs": {"enable_thinking": True},
      "add_generation_prompt": False, "continue_final_message": None}, [user(Q), A]),
    ({"prompt": Q, "response": "73", "chosen": None, "rejected": None, "messages": None, "text": None, "ids": None,
      "input_ids": None, "steps": None, "id": None, "system": None, "tools": None}, [user(Q), A]),
    ({"prompt": None, "messages": [user(Q), {**A, "name": None, "tool_call_id": "x", "weight": 1}], "chosen": None}, [user(Q), A]),
]


@pytest.mark.parametrize("ask,cases", [(by_socket, ONE), (by_lines, ONE + ONE_LINE)], ids=["socket", "lines"])
def test_one(running, ask, cases):
    found = ask(running, *(row for row, _ in cases))
    expected = plain(running, *(chatml(*talk) for _, talk in cases))
    for (row, _), result, score in zip(cases, found, expected):
        assert result["error"] is None and result["score"] == score, (row, result)


def test_the_generation_prompt(running, qwen3):
    """Behind the last message, where the row asks for it: for a language model's head, say, that answers yes or no."""
    header = "<|im_start|>assistant\n"
    rows = [{"messages": [user(Q)]}, {"prompt": Q, "response": "73"}, {"prompt": [user(Q)], "responses": ["73", [A]]}]
    texts = [chatml(user(Q)) + header, chatml(user(Q), A) + header]
    one, two = plain(running, *texts)
    for found in (by_socket(running, *({**row, "add_generation_prompt": True} for row in rows)),
                  by_lines(running, *({**row, "add_generation_prompt": True} for row in rows)),
                  by_lines(running, *({**row, "chat_template_kwargs": {"add_generation_prompt": True}} for row in rows)),
                  by_lines(running, *rows, options=["--add-generation-prompt"])):
        assert [row.get("score") or row["scores"] for row in found] == [one, two, [two, two]]
    for no in ({"add_generation_prompt": False}, {"chat_template_kwargs": {"add_generation_prompt": False}}):
        other, = by_lines(running, {**rows[0], **no}, options=["--add-generation-prompt"])
        assert "found one in the line and another by an option" in other["error"]["message"]
        assert by_lines(running, {**rows[0], **no})[0]["score"] == plain(running, chatml(user(Q)))[0]
    asked = {"add_generation_prompt": True}
    refused = by_socket(running, {**rows[0], "chat_template_kwargs": asked}, {"chosen": "a", "rejected": "b", **asked},
                        {"prompt": Q, "steps": ["a"], "pool": {"step_token": 0, "activation": "none"}, **asked})
    assert [row["error"]["code"] for row in refused] == ["bad_text"] * 3
    assert all("add_generation_prompt" in row["error"]["message"] for row in refused)
    assert "--chat-template" in by_socket(qwen3, {**rows[0], **asked})[0]["error"]["message"]  # known by its name alone
    assert by_socket(qwen3, {**rows[0], "add_generation_prompt": False})[0]["error"] is None


def test_conversational_rows(running):
    """As TRL has them: the prompt's messages and then the answer's, whatever the answer is called."""
    talk = [system("Be brief."), user(Q)]
    more = [A, user("Sure?"), answer("Yes.")]
    rows = [{"prompt": talk, "completion": more}, {"prompt": talk, "response": more}, {"question": talk, "completion": more},
            {"prompt": talk, "completion": talk + more}, {"prompt": talk, "responses": [more, [B], "73", talk + [A]]},
            {"prompt": talk, "chosen": more, "rejected": [B]}, {"prompt": talk + [A], "completion": more[1:]},
            {"prompt": Q, "system": "Be brief.", "responses": [more, [B], "73", [A]]}]
    texts = [chatml(*talk, *more), chatml(*talk, B), chatml(*talk, A)]
    whole, second, short = plain(running, *texts)
    for ask in (by_socket, by_lines):
        *same, many, pair, rest, apart = ask(running, *rows)
        assert [row["score"] for row in (*same, rest)] == [whole] * 5, ask
        assert many["scores"] == [whole, second, short, short] == apart["scores"] and many["best"] == apart["best"]
        assert [pair["chosen"], pair["rejected"]] == [whole, second]


BAD = [  # (row, the field that its error begins with, a word of it)
    ({"messages": [user(Q), answer([{"type": "text", "text": "73"}])]}, "messages[1].content", "join_content"),
    ({"messages": [user(Q), answer([{"type": "image_url", "image_url": {"url": "x"}}])]}, "messages[1].content", "found 'image_url'"),
    ({"prompt": Q, "response": [answer([{"type": "text", "text": "73"}, "74"])]}, "messages[1].content", "content[1]: expected a part"),
    ({"messages": [user(Q), answer(None)]}, "messages[1].content", "found nil"),
    ({"messages": []}, "messages", "at least one message"),
    ({"prompt": Q, "response": []}, "response", "at least one message"),
    ({"prompt": Q, "responses": ["73", []]}, "responses[1]", "at least one message"),
    ({"prompt": Q, "chosen": [], "rejected": "74"}, "chosen", "at least one message"),
    ({"chosen": Q, "rejected": [user(Q), B]}, "rejected", "chosen and rejected alike"),
    ({"prompt": [user(Q)], "responses": ["73", [user(OTHER), A]]}, "responses[1]", "the prompt"),
    ({"prompt": Q, "chosen": [user(OTHER), A], "rejected": [user(Q), B]}, "chosen", "the prompt"),
    ({"prompt": [user(Q)], "chosen": [A], "rejected": [user(OTHER), B]}, "rejected", "the prompt"),
    ({"prompt": [user(Q)], "chosen": [system("s"), A], "rejected": [B]}, "chosen", "system message"),
    ({"prompt": [system("s"), user(Q)], "chosen": [user(Q), A], "rejected": [user(Q), B]}, "chosen", "user message"),
    ({"prompt": "Human: 1 + 1?", "chosen": "Human: 1 + 1? Assistant: 2", "rejected": "Human: 1 + 1? Assistant: 3"},
     "chosen", "both texts begin with the prompt"),
    ({"prompt": Q, "messages": [user(OTHER), A]}, "messages", "the prompt"),
    ({"messages": [user(Q)], "chat_template_kwargs": {"continue_final_message": True}}, "chat_template_kwargs", "continue_final_message"),
    ({"messages": [user(Q)], "chat_template_kwargs": {"messages": None}}, "chat_template_kwargs", "without the argument messages"),
    ({"system": "s", "messages": [system("t"), user(Q), A]}, "system", "another one"),
    ({"system": "s", "prompt": [system("t"), user(Q)], "response": "73"}, "system", "another one"),
    ({"system": "s", "prompt": Q, "steps": ["a"], "pool": {"step_token": 0, "activation": "none"}}, "system", "as messages"),
]
BAD_LINES = [
    ({"prompt": Q, "question": OTHER, "response": "73"}, "question", "in what is scored"),
    ({"question": Q, "problem": OTHER, "response": "73"}, "problem", "in what is scored"),
    ({"question": Q, "text": "73"}, "question", "in what is scored"),
    ({"prompt": Q, "text": "73"}, "prompt", "in what is scored"),
    ({"prompt": "hi", "text": "oh hi there"}, "prompt", "in what is scored"),
    ({"system": "s", "chosen": "73", "rejected": "74"}, "system", "in what is scored"),
    ({"system": "u", "system_prompt": "s", "prompt": Q, "response": "7"}, "system_prompt", "differ"),
    ({"prompt": Q, "response": "73", "completion": "74"}, "completion", "differ"),
    ({"input_ids": [1], "ids": [2]}, "ids", "found both"),
    ({"input_ids": [0, 1, 2], "attention_mask": [0, 1, 1]}, "attention_mask", "padding"),
    ({"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0]}, "attention_mask", "padding"),
    ({"input_ids": [1, 2], "attention_mask": [1]}, "attention_mask", "padding"),
    ({"ids": [1, 2], "position_ids": [1, 2]}, "position_ids", "0, 1, 2"),
    ({"prompt": Q, "response": "73", "context": "The moon."}, "context", "in what is scored"),
    ({"prompt": Q, "response": "73", "documents": [{"title": "t", "text": "The moon."}]}, "documents", "in what is scored"),
    ({"instruction": "Add.", "prompt": Q, "response": "73"}, "instruction", "in what is scored"),
    ({"input": Q, "chosen": "73", "rejected": "74"}, "input", "in what is scored"),
    # an answer that repeats a column is not the prompt that should have held it
    ({"messages": [user("hi")], "chosen": "hi there", "rejected": "oh no"}, "messages", "in what is scored"),
    ({"messages": [user("hi")], "chosen": "hi there", "rejected": "hi to you"}, "messages", "in what is scored"),
    ({"messages": [user("hi")], "chosen": "hi", "rejected": "oh no"}, "messages", "in what is scored"),
    ({"messages": [user("73"), A], "prompt": Q, "response": "73"}, "messages", "in what is scored"),
    ({"prompt": "Correct it.", "input": "The cat sat.", "response": "The cat sat."}, "input", "in what is scored"),
    ({"instruction": Q, "chosen": f"{Q} It is 73", "rejected": "74"}, "instruction", "in what is scored"),
    ({"prompt": "Double it.", "input": "6", "response": "16"}, "input", "in what is scored"),
    ({"prompt": "Double 16.", "input": "6", "response": "12"}, "input", "in what is scored"),
    ({"prompt": Q, "history": ["73"], "response": "73"}, "history", "in what is scored"),
    ({"prompt": Q, "context": "73", "steps": ["73", "74"]}, "context", "in what is scored"),
    ({"messages": [user(Q), answer("It is the moon.")], "context": "the moon"}, "context", "in what is scored"),
    ({"prompt": Q, "response": "73", "ids": [15, 11, 42]}, "ids", "input_ids"),
    ({"text": Q, "text_pair": "73"}, "text_pair", "in what is scored"),
    ({"text": Q, "document": "The moon."}, "document", "in what is scored"),
    ({"prompt": Q, "response": "73", "chat_history": [["a", "b"]]}, "chat_history", "in what is scored"),
    ({"prompt": Q, "response": "73", "system_message": "Be brief."}, "system_message", "in what is scored"),
    ({"prompt": Q, "response": "73", "image_url": "x"}, "image_url", "text alone"),
    ({"messages": [user(Q)], "add_generation_prompt": True, "chat_template_kwargs": {"add_generation_prompt": False}},
     "add_generation_prompt", "found both"),
    ({"chosen": "73", "rejected": "74", "ids": [15]}, "ids", "input_ids"),
    ({"messages": [user(Q)], "chosen": "73", "rejected": "74"}, "messages", "in what is scored"),
    ({"messages": [user(OTHER)], "prompt": Q, "chosen": "73", "rejected": "74"}, "messages", "in what is scored"),
    ({"messages": [system("Be brief."), user(Q)], "chosen": [user(Q), A], "rejected": [user(Q), B]}, "messages", "in what is scored"),
    ({"messages": [user(Q), answer("73", reasoning_content="well")], "prompt": Q, "chosen": "73", "rejected": "74"},
     "messages", "in what is scored"),
    ({"messages": [user(Q), answer("", tool_calls=[{"name": "add"}])], "prompt": Q, "chosen": "73", "rejected": "74"},
     "messages", "in what is scored"),
    ({"messages": "[]", "prompt": Q, "chosen": "73", "rejected": "74"}, "messages", "in what is scored"),
    ({"text": Q, "chosen": "73", "rejected": "74"}, "text", "in what is scored"),
    ({"text": OTHER, "prompt": Q, "chosen": "73", "rejected": "74"}, "text", "in what is scored"),
    ({"messages": [user(OTHER)], "prompt": Q, "response": "73"}, "messages", "in what is scored"),
    ({"messages": [user(OTHER)], "prompt": Q, "completion": "73"}, "messages", "in what is scored"),
    ({"messages": [user(OTHER)], "prompt": Q, "responses": ["73", "74"]}, "messages", "in what is scored"),
    ({"messages": [user(OTHER)], "prompt": Q, "steps": ["73"]}, "messages", "in what is scored"),
    ({"conversations": [{"from": "human", "value": Q}], "chosen": "73", "rejected": "74"}, "conversations", "in what is scored"),
    ({"prompt": Q, "response": "73", "thinking": "well"}, "thinking", "in what is scored"),
    ({"prompt": Q, "response": "73", "images": ["x.png"]}, "images", "text alone"),
    ({"messages": [user(Q)], "add_generation_prompt": 1}, "add_generation_prompt", "true or false"),
    ({"messages": [user(Q)], "chat_template_kwargs": {"add_generation_prompt": "yes"}}, "add_generation_prompt", "true or false"),
    ({"messages": [user(Q)], "enable_thinking": True}, "enable_thinking", "chat_template_kwargs"),
    ({"messages": [user(Q)], "continue_final_message": True}, "continue_final_message", "argument"),
    ({"messages": [user(Q)], "chat_template_kwargs": "enable_thinking"}, "chat_template_kwargs", "expected an object"),
    ({"messages": [user(Q)], "tools": [], "chat_template_kwargs": {"tools": {"name": "add"}}}, "tools", "a list of tools"),
    ({"messages": [user(Q)], "tools": [{"name": "f"}], "chat_template_kwargs": {"tools": [{"name": "g"}]}}, "tools", "found another"),
    ({"messages": [user(Q)], "chat_template_kwargs": '{"add_generation_prompt": true}'}, "chat_template_kwargs", "expected an object"),
    ({"messages": [user(Q)], "chat_template_kwargs": True}, "chat_template_kwargs", "expected an object"),
    ({"messages": [user(Q)], "thinking": True}, "thinking", "expected in chat_template_kwargs"),
    ({"messages": [user(Q)], "chat_template": "{{ messages }}"}, "chat_template", "argument"),
    ({"messages": [user(Q), {**A, "images": ["x.png"]}]}, "messages[1].images", "text alone"),
    ({"prompt": [{**user(Q), "audio": "x.wav"}], "response": "73"}, "prompt[0].audio", "text alone"),
    ({"chosen": [user(Q), {**A, "video": {"url": "x"}}], "rejected": [user(Q), B]}, "chosen[1].video", "text alone"),
    ({"prompt": Q, "responses": ["73", [{**A, "image": "x.png"}]]}, "responses[1][0].image", "text alone"),
    ({"prompt": Q, "responses": [A, B]}, "responses[0]", "a string or an array of messages"),
    ({"text": "x", "pool": "CLS"}, "pool", "leave the column out"),
    ({"text": "x", "pool": {"type": "cls"}}, "pool.type", "expected LAST"),
    ({"text": "x", "pool": {"kind": "CLS"}}, "pool.kind", "unknown field"),
    ({"text": "x", "pool": {"type": "POSITIONS", "positions": [0.5]}}, "pool.positions[0]", "expected an integer"),
    ({"text": "x", "truncate": "no"}, "truncate", "true or false"),
    ({"ids": [1, 2], "safe_text": 1}, "safe_text", "true or false"),
    ({"text": "x", "hf_pad_rule": "on"}, "hf_pad_rule", "true or false"),
    ({"text": "x", "add_special_tokens": "no"}, "add_special_tokens", "true or false"),
    ({"ids": [1, 2], "add_special_tokens": False}, "add_special_tokens", "expected only with text"),
    ({"prompt": Q, "response": "73", "add_special_tokens": True}, "add_special_tokens", "expected only with text"),
    ({"prompt": Q, "chosen": "73", "rejected": "74", "add_special_tokens": False}, "add_special_tokens", "expected only with text"),
    ({"text": "x", "positions": [0]}, "positions", "expected in pool"),
    ({"ids": [1, 2], "step_token": 2}, "step_token", "expected in pool"),
    ({"text": "x", "activation": "sigmoid"}, "activation", "expected in pool"),
    ({"instruction": Q, "output": "73"}, "", "under the name response"),
    ({"query": Q, "answer": "73"}, "", "a prompt is read under the name prompt"),
    ({"conversations": [{"from": "human", "value": Q}]}, "", "under the name messages"),
    ({"query": Q, "response": "73"}, "query", "under the name prompt"),
    ({"query": Q, "responses": ["73", "74"]}, "query", "under the name prompt"),
    ({"query": Q, "chosen": "73", "rejected": "74"}, "query", "under the name prompt"),
    ({"instruction": Q, "response": "73"}, "instruction", "under the name prompt"),
    ({"input": Q, "completion": "73"}, "input", "under the name prompt"),
    ({"messages": [user(Q), {"role": "assistant"}]}, "messages[1].content", "found nothing"),
    ({"messages": [user(Q), answer(7)]}, "messages[1].content", "expected a string"),
]


@pytest.mark.parametrize("ask,cases", [(by_socket, BAD), (by_lines, BAD[:-1] + BAD_LINES)], ids=["socket", "lines"])
def test_two_readings_are_the_rows_error(running, ask, cases):
    """By the name of what is in the way; the rows beside them are scored."""
    found = ask(running, {"text": "fine"}, *(row for row, _, _ in cases), {"text": "fine"})
    assert found[0]["error"] is None and found[-1]["score"] == found[0]["score"]
    for (row, field, words), result in zip(cases, found[1:]):
        assert result["error"] is not None, (row, result)
        message = result["error"]["message"]
        assert message.startswith(f"{field}: " if field else "line") and words in message, (row, message)


SETTINGS = [
    {"text": "a b c", "pool": {"type": "CLS"}}, {"text": "a b c", "pool": {"type": "MEAN", "activation": "sigmoid"}},
    {"ids": [5, 6, 7], "pool": {"type": "POSITIONS", "positions": [2, 0]}}, {"ids": [5, 6, 7], "pool": {"type": "ALL"}},
    {"ids": [5, 6, 5, 7], "pool": {"type": "STEP", "step_token": 5}}, {"ids": [5, 6, 5], "pool": {}},
    {"text": "a<|im_end|>", "safe_text": True}, {"text": "a<|im_end|>", "safe_text": False},
    {"ids": [5] * 10_000, "truncate": True}, {"ids": [5] * 10_000, "truncate": False}, {"ids": [5, 6], "hf_pad_rule": False},
    {"ids": [5, 6], "adapter": "none"}, {"prompt": Q, "responses": ["73", "74"], "pool": {"type": "CLS"}},
]


def test_how_a_row_is_scored_stands_in_it(running):
    """A line may say what the row of a message says, and is scored as it is; null is as good as absent."""
    by_message = by_socket(running, *SETTINGS)
    lines = [{**row, "pool": {"positions": None, **row["pool"]}} if "pool" in row else {**row, "pool": None, "positions": None} for row in SETTINGS]
    for row, message, line in zip(SETTINGS, by_message, by_lines(running, *lines)):
        assert {key: line[key] for key in message if key not in ("i", "id")} == {k: v for k, v in message.items() if k not in ("i", "id")}, row
    assert by_message[0]["pooled_at"][0]["i"] == 0 and by_message[8]["error"] is None and by_message[9]["error"]["code"] == "too_long"
    assert by_message[6]["n_tokens"] > by_message[7]["n_tokens"] and by_message[11]["error"]["code"] == "unknown_adapter"


@pytest.mark.parametrize("ask", [by_socket, by_lines])
def test_what_the_tokenizer_puts_around_a_text(running, tmp_path, ask):
    """Written by default, as in transformers, and left out where the row says so: of texts, and of pairs of texts."""
    with Broker(tmp_path, model=framed_model(tmp_path / "model")) as framed:
        found = ask(framed, {"text": Q}, {"text": Q, "add_special_tokens": True}, {"text": Q, "add_special_tokens": False},
                    {"chosen": Q, "rejected": "73"}, {"chosen": Q, "rejected": "73", "add_special_tokens": False})
    around, alone = plain(running, f"<|endoftext|>{Q}<extra_0>", Q)
    pairs = plain(running, "<|endoftext|>73<extra_0>", "73")
    assert [row["score"] for row in found[:3]] == [around, around, alone] and around != alone
    assert [(row["chosen"], row["rejected"]) for row in found[3:]] == list(zip([around, alone], pairs))
    assert found[0]["n_tokens"] == found[2]["n_tokens"] + 2


def test_a_line_and_an_option_agree(running, directory):
    rows = [{"text": "a"}, {"text": "a", "pool": {"type": "CLS"}}, {"text": "a", "truncate": True}, {"text": "a", "safe_text": False},
            {"text": "a", "hf_pad_rule": False}, {"text": "a", "hf_pad_rule": True}]
    (directory / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("score", directory / "in.jsonl", "--connect", running.endpoint, "--key", random_key(), "--pool", "CLS", "--truncate", "--safe-text",
               "--hf-pad-rule", "off")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["error"] and row["error"]["message"].split(":")[0] for row in found] == [None, "pool", None, "safe_text", None, "hf_pad_rule"]
    assert all("another by an option" in row["error"]["message"] for row in found if row["error"])


# Rendered by transformers 4.57 with Qwen3's template (sha256 a55ee1b1..): what stands behind "<|im_start|>user\nq<|im_end|>\n".
THINK, END = "<|im_start|>assistant\n<think>\n", "\n</think>\n\n"
THOUGHTS = [
    ([answer("7", reasoning_content="3 + 4")], f"{THINK}3 + 4{END}7<|im_end|>\n"),
    ([answer("\n7", reasoning_content="\n\nwell\n")], f"{THINK}well{END}7<|im_end|>\n"),
    ([answer("<think>x</think>7", reasoning_content="")], f"{THINK}{END}<think>x</think>7<|im_end|>\n"),
    ([answer("<think>x</think>7", reasoning_content="y")], f"{THINK}y{END}<think>x</think>7<|im_end|>\n"),
    ([answer("<think>x</think>7", reasoning_content=None)], f"{THINK}x{END}7<|im_end|>\n"),
    ([answer("a", reasoning_content="one"), answer("b")], f"{THINK}one{END}a<|im_end|>\n{THINK}{END}b<|im_end|>\n"),
    ([answer("a", reasoning_content="\n"), answer("b", reasoning_content="two")],
     f"{THINK}{END}a<|im_end|>\n{THINK}two{END}b<|im_end|>\n"),
    ([answer("\na", reasoning_content=""), answer("b", reasoning_content="two")],
     f"<|im_start|>assistant\n\na<|im_end|>\n{THINK}two{END}b<|im_end|>\n"),
    ([answer("a", reasoning_content="old"), user("r"), answer("b", reasoning_content="new")],
     f"<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nr<|im_end|>\n{THINK}new{END}b<|im_end|>\n"),
    # Older names of it, as transformers 5.23 takes them.
    ([answer("7", thinking="so", reasoning="no")], f"{THINK}so{END}7<|im_end|>\n"),
    ([answer("7", reasoning="r", thinking=None)], f"{THINK}r{END}7<|im_end|>\n"),
    ([answer("7", thinking="t", reasoning_content="c")], f"{THINK}c{END}7<|im_end|>\n"),
]


@pytest.mark.parametrize("ask", [by_socket, by_lines])
def test_reasoning_content(qwen3, ask):
    """Where the template reads it, it is written; safe_text holds for it too."""
    found = ask(qwen3, *({"messages": [user("q"), *talk]} for talk, _ in THOUGHTS))
    expected = plain(qwen3, *("<|im_start|>user\nq<|im_end|>\n" + text for _, text in THOUGHTS))
    assert [row["error"] for row in found] == [None] * len(THOUGHTS)
    assert [row["score"] for row in found] == expected
    evil = {"messages": [user("q"), answer("7", reasoning_content="<|im_end|>")]}
    loose, safe = by_socket(qwen3, evil, {**evil, "safe_text": True})
    assert safe["n_tokens"] > loose["n_tokens"] and safe["error"] is None


@pytest.mark.parametrize("ask", [by_socket, by_lines])
def test_what_the_template_would_write_is_not_left_out(qwen3, ask):
    """Tools and tool calls, with a template that writes them."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    found = ask(qwen3, {"messages": [user(Q), A], "tools": [call]}, {"messages": [user(Q), answer("", tool_calls=[call]), A]},
                {"prompt": Q, "response": "73", "tools": [call]}, {"messages": [user(Q), answer("73", tool_calls=[])], "tools": []})
    for row, field in zip(found, ("tools", "messages[1].tool_calls", "tools")):
        assert row["error"]["code"] == "bad_text" and row["error"]["message"].startswith(field), row
        assert "qwen3" in row["error"]["message"]
    assert found[3]["error"] is None


def test_the_longest_id(running):
    """A line's is as long as a message's may be."""
    lines = [{"id": "x" * n, "text": "a"} for n in (250, 251, 256, 257)]
    *fit, long = by_lines(running, *lines)
    assert [(row["id"], row["error"]) for row in fit] == [(line["id"], None) for line in lines[:3]]
    assert long["error"]["message"].endswith("line 4: expected at most 256 bytes, found 257"), long
    assert [row["id"] for row in by_socket(running, *lines[:3])] == [line["id"] for line in lines[:3]]


# ---- lines that JSON's readers differ about ----

FORGIVEN = [  # (line, its id; None: its number)
    (b'{"id": null, "prompt": "q", "response": "7", "chosen": null, "rejected": null}', None),
    (b'{"id": null, "custom_id": "c", "prompt": "q", "response": "7"}', "c"),
    (b'{"custom_id": 18446744073709551615, "id": -9223372036854775808, "prompt": "q", "response": "7"}', -2**63),
    (b'{"id": "18446744073709551615", "prompt": "q", "response": "7"}', "18446744073709551615"),
    (b'\xef\xbb\xbf{"id": "mark", "prompt": "q", "response": "7"}', "mark"),
    (b'{"prompt": "q", "response": "7", "hash": 18446744073709551615, "x": [1e999, {"y": -1e999}]}', None),
    (b'{"meta": {"cut": "\\ud83d and \\ude00 \\ud83d\\ude00", "k": "\\\\ud800"}, "prompt": "q", "response": "7"}', None),
    (b'{"score": NaN, "w": [Infinity, -Infinity], "prompt": "q", "response": "7"}', None),
    (b'{"chosen": NaN, "rejected": NaN, "prompt": "q", "response": "7", "text": NaN}', None),
]


def test_what_cannot_matter_is_no_error(running):
    """Numbers beyond 64 bits, NaN and halves of characters in columns that are not read; a mark where a file, or one of several, begins."""
    found = by_lines(running, b"\xef\xbb\xbf" + FORGIVEN[0][0], *(line for line, _ in FORGIVEN[1:]))
    score = plain(running, chatml(user("q"), answer("7")))[0]
    for k, ((line, id), row) in enumerate(zip(FORGIVEN, found)):
        assert row["error"] is None and row["score"] == score and row["id"] == (id or k + 1), (line, row)
    bad = [b'{"prompt": "q", "response": "\\ud800"}', b'{"text": NaN}', b'{"input_ids": [99999999999999999999]}', b'{"id": 1e999, "text": "x"}',
           b'{"input_ids": [1, NaN]}', b'{"text": "x", "score": 1e}', b'{"text": "x", "score": nan}', b'{"te\\u0078t": "\\ud800"}', b'{"\\u0069d": 99999999999999999999, "text": "x"}']
    assert all(row["error"]["code"] == "bad_request" and "line" in row["error"]["message"] for row in by_lines(running, {"text": "x"}, *bad)[1:])


BROKEN = [  # (line, its id; None: its number, words of the error)
    (b'{"score": NaN, "id": "a", "text": tru}', "a", "invalid token near 'tru' at byte 37"),
    (b'{"h": 99999999999999999999, "k": NaN, "t": "\\ud800", "id": 5, "text": "\\ud800"}', 5, "at byte 78"),
    (b'{"id": "a", "text": "x", "text": "y"}', "a", 'key "text" twice in an object at byte 31'),
    (b'{"text": "x", "w": NaN, "meta": {"k\\"": 1, "l": {}, "k\\"": 2}}', None, 'key "k\\"" twice in an object at byte 57'),
    (b'{"id": 1, "text": "x", "id": 2}', None, 'key "id" twice'), (b'{"custom_id": "c", "text": [}, "id": "a"}', None, "byte 29"),
    (b'{"custom_id": "c", "text": [}, "x": 1}', "c", "byte 29"), (b'{"id": null, "custom_id": "c", "text": "cut', "c", "premature end"),
    (b'{"id": "a", "text": "x"},', "a", "expected one object, found more behind it at byte 25"), (b'{"id": "a"} {"id": "b"}', None, "found more behind"),
    (b'{"id": "a", "text": "x"}\xef\xbb\xbf{"text": "y"}', "a", "byte order mark"), (b'{"id": [1], "text": x}', None, "'x'"),
    (b'{"id": "' + b"i" * 300 + b'", "text": x}', None, "'x'"), (b'{"id": 99999999999999999999, "text": x}', None, "'x'"),
    (b'{"id": "cut', None, "premature end"), (b'["id", "a", x]', None, "'x'"), (b'{"a": "\\", \\"id", "id": "a", "text": "\xff"}', "a", "decode byte 0xff"),
    (b'{"id": "a", "x": [' + b"{}," * 300_000 + b"1]}", "a", "4194304 values"), (b'{"id": "a", "text": "' + b"x" * 70_000_000 + b'"}', "a", "67108864"),
    (b'{"custom_id": "c", "text": "' + b"x" * 70_000_000 + b'"}', None, "67108864"),
    (b'{"id": 18446744073709551615, "text": "x"}', None, "id: line 21: expected an integer of at most 64 bits or a string, found 18446744073709551615"),
    (b'{"custom_id": -99999999999999999999999, "text": "x"}', None, "custom_id: line 22: expected an integer of at most 64 bits"),
]


def test_a_broken_line_says_what_is_wrong_and_whose_it_is(running, directory):
    """The fault that is left once what cannot matter is forgiven, at its place in the line; with the id that stands before it, if it is certain.
    The same from submit and results."""
    (directory / "in.jsonl").write_bytes(b"".join(line + b"\n" for line, *_ in BROKEN))
    scored = run("score", directory / "in.jsonl", "--connect", running.endpoint, "--key", random_key())
    found = [json.loads(line) for line in scored.stdout.splitlines()]
    assert scored.returncode == 1 and len(found) == len(BROKEN)
    for k, ((line, id, words), row) in enumerate(zip(BROKEN, found)):
        assert row["id"] == (k + 1 if id is None else id) and words in row["error"]["message"], (line[:100], row)
        assert f"line {k + 1}: " in row["error"]["message"]
    assert run("submit", directory / "in.jsonl", "--connect", running.endpoint, "--key", "broken").returncode == 1
    results = run("results", "broken", "--connect", running.endpoint).stdout.splitlines()
    assert sorted(results) == sorted(scored.stdout.splitlines())


def test_numbers_come_back_with_the_input(running, directory):
    (directory / "in.jsonl").write_text('{"text": "x", "hash": 18446744073709551615, "n": 9223372036854775807, "a": [1e999, NaN]}\n')
    done = subprocess.run([BIN / "assay", "score", directory / "in.jsonl", "--keep-input", "--connect", running.endpoint, "--key", random_key()],
                          capture_output=True, timeout=200 * PATIENCE)
    row = json.loads(done.stdout)
    assert row["input"] == {"text": "x", "hash": "18446744073709551615", "n": 2**63 - 1, "a": ["1e999", None]} and row["error"] is None


def test_a_line_of_many_values_is_its_own_error(running):
    """A few bytes of JSON are many of memory: 4 Mi values, where an object counts as 16."""
    many = [b'{"text": "x", "a": [' + b"{}," * 300_000 + b"1]}", b'{"text": "x", "a": [' + b"0," * 5_000_000 + b"1]}",
            b'{"text": "' + b"[," * 3_000_000 + b'"}']
    found = by_lines(running, {"text": "x"}, *many, {"text": "x"})
    assert [row["error"] and row["error"]["code"] for row in found] == [None, "too_large", "too_large", "too_long", None]
    assert "4194304 values" in found[1]["error"]["message"] and "line 2" in found[1]["error"]["message"]


def test_submit_keeps_bad_lines_as_score_does(running, directory):
    """The same lines by both: the same ids, scores and errors, each in its place."""
    lines = [b'{"id": "a", "text": "x"}', b"not json", b'{"id": "b", "prompt": "q"}', b'{"id": 9223372036854775807, "input_ids": [4294967296]}', b"",
             b'{"text": "y"}', b"[1]"]
    (directory / "in.jsonl").write_bytes(b"\n".join(lines))
    scored = run("score", directory / "in.jsonl", "--connect", running.endpoint, "--key", "by-score")
    submitted = run("submit", directory / "in.jsonl", "--connect", running.endpoint, "--key", "by-submit")
    assert submitted.returncode == 1 and "6 rows accepted, 4 bad lines" in submitted.stdout, submitted
    assert all(f"line {k}" in submitted.stderr for k in (2, 3, 4, 7))
    assert run("submit", directory / "in.jsonl", "--connect", running.endpoint, "--key", "by-submit").returncode == 1  # the same job
    assert run("wait", "by-submit", "--connect", running.endpoint).returncode == 1
    found = run("results", "by-submit", "--connect", running.endpoint)
    order = ["a", 2, "b", 2**63 - 1, 6, 7]
    by_id = {row["id"]: row for row in map(json.loads, found.stdout.splitlines())}
    assert [by_id[id] for id in order] == [json.loads(line) for line in scored.stdout.splitlines()]
    assert [by_id[id]["error"] and by_id[id]["error"]["code"] for id in order] == [
        None, "bad_request", "bad_request", "bad_token", None, "bad_request"]


def run(*args, **options):
    return subprocess.run([BIN / "assay", *map(str, args)], capture_output=True, text=True, timeout=200 * PATIENCE, **options)


# A child counts its parent's memory until it is another program: so a small parent, and what its child took, in kB.
MEASURE = """import resource, subprocess, sys
rc = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(rc)"""


def test_many_bad_lines_take_little_memory(running, directory):
    """Also where the first good one comes late: no line waits for the end. (They took 130 MB when they did.)"""
    (directory / "in.jsonl").write_bytes(b'{"bad": 1}\n' * 100_000 + b'{"text": "x"}\n' + b"bad\n" * 10)
    with open(directory / "out", "wb") as out:
        done = subprocess.run([sys.executable, "-c", MEASURE, BIN / "assay", "score", directory / "in.jsonl", "--connect", running.endpoint, "--key",
                               random_key()], stdout=out, stderr=subprocess.PIPE, timeout=200 * PATIENCE)
    rows = [json.loads(line) for line in open(directory / "out")]
    assert done.returncode == 1 and len(rows) == 100_011
    assert rows[100_000]["error"] is None and rows[-1]["error"]["code"] == "bad_request"
    assert int(done.stderr.split()[-1]) < 70_000 or PATIENCE > 1  # sanitizers have their own


@pytest.mark.parametrize("verb", ["score", "submit"])
def test_a_row_that_no_message_holds(directory, verb):
    """Its line's error, where it ended the job; the others go in smaller chunks."""
    rows = [{"id": k, "text": f"{k} ", "truncate": True} for k in range(2000)]
    rows[1000]["text"], rows[1500]["text"] = "x" * 40_000, "y" * 100_000
    (directory / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Broker(directory / "d", model=REWARD, options=["--max-message-bytes", 65536]) as broker:
        done = run(verb, directory / "in.jsonl", "--key", "k", "--truncate", "--data", broker.data)
        assert done.returncode == 1, done.stderr
        with broker.client() as client:
            results = {row["id"]: row for row in client.results("k")}
    if verb == "score":
        results = {row["id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert sorted(results) == list(range(2000))
    assert [k for k in range(2000) if results[k]["error"]] == [1500]
    assert results[1500]["error"]["code"] == "too_large" and "line 1501" in results[1500]["error"]["message"]
