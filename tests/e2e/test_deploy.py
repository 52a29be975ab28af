"""debian/deploy: what is to be copied for containers, SLURM and Kubernetes is sound, and its commands score."""
import os
import re
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT

DEPLOY = ROOT / "debian/deploy"
ENV = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
MODEL = MODELS / "demo-reward"
N = 3


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Shards, and the scores of the whole file."""
    path = tmp_path_factory.mktemp("work")
    (path / "rows.jsonl").write_text("".join(f'{{"id": "r{k}", "ids": [{k + 1}, 7, {3 * k + 2}]}}\n' for k in range(10)))
    for words in (["shard", "rows.jsonl", str(N), "--dir", "shards"], ["score", "rows.jsonl", "-o", "whole.jsonl", "--model", MODEL]):
        subprocess.run([BIN / "assay", *words], cwd=path, check=True, capture_output=True, timeout=120 * PATIENCE)
    return path


def joined(path):
    return "".join((path / f"{k}.jsonl").read_text() for k in range(N))


def test_the_array_of_slurm(work):
    script = DEPLOY / "score.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    assert all(re.match(r"#SBATCH --[a-z-]+(=\S+)?$", line) for line in script.read_text().splitlines() if line.startswith("#SBATCH"))
    (work / "slurm").mkdir()
    for k in range(N):
        done = subprocess.run(["bash", script, "shards", "slurm", MODEL], cwd=work, env={**ENV, "SLURM_ARRAY_TASK_ID": str(k), "SLURM_CPUS_PER_TASK": "1"},
                              capture_output=True, text=True, timeout=120 * PATIENCE)
        assert done.returncode == 0, done.stderr
    assert joined(work / "slurm") == (work / "whole.jsonl").read_text()
    done = subprocess.run(["bash", script, "shards", "slurm", MODEL], cwd=work, env=ENV, capture_output=True, text=True)
    assert done.returncode != 0 and "expected an array" in done.stderr


def test_the_indexed_job(work):
    yaml = pytest.importorskip("yaml")
    [job] = yaml.safe_load_all((DEPLOY / "score-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    given = {one["name"]: one["value"] for one in container["env"]}
    mine = {"SHARDS": str(work / "shards"), "SCORES": str(work / "kubernetes"), "MODEL": str(MODEL)}
    assert given.keys() == mine.keys()
    (work / "kubernetes").mkdir()
    for k in range(N):
        done = subprocess.run([*container["command"], *container["args"]], cwd=work, env={**ENV, **mine, "JOB_COMPLETION_INDEX": str(k)},
                              capture_output=True, text=True, timeout=120 * PATIENCE)
        assert done.returncode == 0, done.stderr
    assert joined(work / "kubernetes") == (work / "whole.jsonl").read_text()


def test_the_container_takes_what_there_is():
    """No image is built here. What the file copies is what `make deb` makes, and the options are options."""
    text = (DEPLOY / "Containerfile").read_text()
    rules = (ROOT / "debian/rules").read_text()
    assert "build/deb-packages" in rules and all(re.search(rf"^Package: {name}$", (ROOT / "debian/control").read_text(), re.M)
                                                 for name in re.findall(r"deb-packages/([a-z-]+)_\*", text))
    assert "USER assay" in text and "EXPOSE" not in text
    words = " ".join(re.findall(r"^(?:ENTRYPOINT|CMD) \[(.*)\]$", text, re.M))
    offered = subprocess.run([BIN / "assayd", "--help"], capture_output=True, text=True).stdout
    options = re.findall(r"--[a-z-]+", words)
    assert len(options) == 3 and all(f"  {option} " in offered for option in options)


def test_the_pages_example(tmp_path):
    example = re.search(r"```sh\n(.*?)```", (DEPLOY / "README.md").read_text(), re.S).group(1)
    example = example.replace("build/cpu/bin", str(BIN)).replace("tests/models", str(MODELS))
    done = subprocess.run(["bash", "-e", "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=120 * PATIENCE)
    assert done.returncode == 0 and len((tmp_path / "scores.jsonl").read_text().splitlines()) == 7, done
