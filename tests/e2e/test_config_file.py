"""assayd --config: options from a file, and what is wrong in it by file, line and key."""
import subprocess

import pytest
from harness import BIN, MODELS, Broker


def start(path, text, *more):
    """Without a model to load: what is wrong is said before."""
    (path / "assayd.conf").write_text(text)
    done = subprocess.run([BIN / "assayd", "--config", path / "assayd.conf", *map(str, more)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.replace(str(path) + "/", "")


def test_options_are_taken(tmp_path):
    data = tmp_path / "d"
    (tmp_path / "assayd.conf").write_text(
        f"\ufeff# comment\n\nlisten = ipc://{data}/a.sock\nlisten ipc://{data}/b.sock\nmax-rows-per-message = 7\n\tno-prefix-sharing\r\nno-dedupe = off\n"
        f"served-name = in the file\nmax-len = 99\nlora = half={MODELS}/lora/reward-half\nlora all={MODELS}/lora/reward-all\n")
    broker = Broker(data, model=MODELS / "reward", options=["--config", tmp_path / "assayd.conf", "--max-len", "50", "--served-name", "said"])
    broker.endpoint = f"ipc://{data}/b.sock"
    with broker, broker.client() as client:
        hello = client.call("hello")
        assert hello["limits"]["max_rows_per_message"] == 7 and hello["limits"]["max_tokens_per_row"] == 50
        assert hello["model"]["name"] == "said"
        assert [adapter["name"] for adapter in client.call("adapters")["adapters"]] == ["all", "half"]
        broker.endpoint = f"ipc://{data}/a.sock"
        with broker.client() as other:
            assert len(other.call("score", rows=[{"ids": [1, 2]}, {"ids": [1, 2]}])["rows"]) == 2
            assert other.call("status", job=1)["copied"] == 1  # dedupe is on


@pytest.mark.parametrize("text,code,said", [
    ("modle = x", 64, "assayd.conf:1: unknown key 'modle'; did you mean model?"),
    ("\n\nthreads = many", 64, "assayd.conf:3: threads: expected an integer from 1 to 1024, found 'many'"),
    ("model = x\nisa = z80", 64, "assayd.conf:2: isa: expected auto,"),
    ("threads", 64, "assayd.conf:1: threads: expected N, found 'nothing'"),
    ("no-dedupe = perhaps", 64, "assayd.conf:1: no-dedupe: expected yes or no"),
    ("threads = 1\nthreads = 2", 64, "assayd.conf:2: threads: expected once, found also in line 1"),
    ("threads =", 78, "assayd.conf:1: expected `key = value`"),
    ("= 3", 78, "assayd.conf:1: expected `key = value`"),
    ("help", 64, "assayd.conf:1: help: expected it on the command line only"),
    ("exit-with-parent = 3", 64, "command line only"),
    ("config = other.conf", 64, "command line only"),
    ("listen = nonsense", 64, "assayd.conf:1: listen: "),
    ("model = x\nlisten = tcp://127.0.0.1:5", 78, "assayd.conf:2: listen: tcp://127.0.0.1:5: a tcp endpoint"),
    ("devices = 1,1", 64, "assayd.conf:1: devices: GPU 1 is named twice"),
    ("score-cache = 5", 64, "assayd.conf:1: score-cache: expected a size"),
    ("retain = soon", 64, "assayd.conf:1: retain: expected an age"),
    ("a\0b", 78, "NUL"),
    ("model = \udcff", 78, "UTF-8"),
])
def test_what_is_wrong(tmp_path, text, code, said):
    (tmp_path / "assayd.conf").write_bytes(text.encode(errors="surrogateescape"))
    done = subprocess.run([BIN / "assayd", "--config", tmp_path / "assayd.conf"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, said in done.stderr) == (code, True), done
    assert len(done.stderr.splitlines()) == 1


def test_no_file(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        done = subprocess.run([BIN / "assayd", "--config", path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 66 and str(path) in done.stderr


def test_the_command_line_wins(tmp_path):
    """Also over a value in the file that would be refused, and over all of those that may be repeated."""
    assert start(tmp_path, "threads = many\nmodel = in-the-file", "--threads", "2", "--tp", "99")[1].startswith("assayd: --tp: ")
    code, said = start(tmp_path, f"model = a=x\nmodel = b=y\ndata = {tmp_path}/d", "--model", tmp_path / "nowhere")
    assert code == 78 and "nowhere" in said and "a=x" not in said
    assert start(tmp_path, "model = x", "--isa", "z80")[1].startswith("assayd: --isa: ")


def test_the_manual_and_help_name_it(tmp_path):
    assert "--config FILE" in subprocess.run([BIN / "assayd", "--help"], capture_output=True, text=True).stdout
