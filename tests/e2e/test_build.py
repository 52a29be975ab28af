"""The Makefile with a builder's own flags, for another machine, and without Python's packages."""
import os
import platform
import shutil
import subprocess

import pytest
from harness import BIN, PATIENCE, ROOT


ONCE = pytest.mark.skipif(PATIENCE > 1, reason="it builds programs of its own, the same whatever programs are under test")


@ONCE
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another CPU")
def test_flags_for_one_cpu(directory):
    """Every set of kernels compiles where the compiler may use all that a CPU has, and what scores depend on stays: no fused
    multiply-add that the code does not ask for."""
    build = os.path.relpath(directory, ROOT / "build")
    objects = [f"build/{build}/obj/worker/cpu/kernels_{isa}.o" for isa in ("portable", "avx2")]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "V=1", "WERROR=1", f"BUILD={build}", "CFLAGS=-O1 -march=sapphirerapids", *objects], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("-march=sapphirerapids") == done.stdout.count("-ffp-contract=off") == 2


def make(*arguments, path=None):
    """Its exit code, and what it says."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    if path:
        env["PATH"] = f"{path}:{env['PATH']}"
    done = subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def program(path, script):
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("machine,flags", [("aarch64-linux-gnu", 0), ("x86_64-linux-gnu", 4)])
def test_flags_are_those_of_the_machine_built_for(directory, machine, flags):
    compiler = program(directory / "cc", f'[ "$1" = -dumpmachine ] && echo {machine}\n')
    objects = [f"build/none/obj/worker/cpu/kernels_{isa}.o" for isa in ("avx2", "avx512", "avx512vnni", "avx512bf16")]
    code, said = make("-n", "V=1", "BUILD=none", f"CC={compiler}", "CPPFLAGS=-DOWN", *objects)
    assert code == 0, said
    assert said.count("-mavx2") == flags and said.count("-DOWN") == said.count("-D_GNU_SOURCE") == 4, said


@ONCE
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="no compiler for aarch64")
def test_another_machine(directory):
    """What needs no library compiles for it, free of warnings."""
    build = os.path.relpath(directory, ROOT / "build")
    others = ["worker/comm_shm.c", "schema/alloc.c", "schema/clock.c", "schema/log.c", "shm/stage.c"]
    sources = [*ROOT.glob("worker/cpu/*.c"), *(ROOT / name for name in others)]
    objects = [f"build/{build}/obj/{source.relative_to(ROOT).with_suffix('.o')}" for source in sources]
    code, said = make("-s", "-j2", "WERROR=1", f"BUILD={build}", "CC=aarch64-linux-gnu-gcc", "PKG_CONFIG=true", "CFLAGS=-O1", *objects)
    assert code == 0, said


def test_man_pages_of_a_program_that_does_not_run(directory):
    broken = program(directory / "assay", "exit 126\n")
    code, said = make("man", "BUILD=" + os.path.relpath(directory, ROOT / "build"), f"HOST_ASSAY={broken}")
    assert code != 0 and "HOST_ASSAY=PATH" in said, said


def test_building_needs_no_python(directory):
    """`make deps` and what `make demo` installs."""
    for name in ("python3", "pip", "pip3"):
        program(directory / name, f"touch {directory}/called\nexit 1\n")
    assert "build" in subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout.split("\n")[0]
    code, said = make("-s", "deps", path=directory)
    assert code == 0 and not (directory / "called").exists(), said


def test_uninstall_takes_back_what_install_put(tmp_path):
    """All but a configuration that was changed; the units name the programs where they are."""
    words = ["make", "-s", f"BUILD={BIN.parent.name}", f"DESTDIR={tmp_path}", "PREFIX=/usr"]
    if BIN != ROOT / "build" / BIN.parent.name / "bin":
        pytest.skip("the programs under test are not this tree's")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    subprocess.run([*words, "install"], cwd=ROOT, env=env, check=True, timeout=600 * PATIENCE, umask=0o077)
    placed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"usr/bin/assayd", "usr/bin/assay-http", "usr/share/man/man1/assayd.1", "usr/share/man/man1/assay-backup.1", "etc/assay/assayd.conf",
            "lib/systemd/system/assayd.service", "lib/systemd/system/assay-http.service", "usr/share/doc/assay/LICENSE",
            "usr/share/doc/assay/broker/OPERATION.md", "usr/share/assay/alerts.yml", "usr/share/assay/dashboard.json",
            "usr/share/assay/models/demo-reward/model.safetensors", "usr/share/assay/models/demo-process.jsonl"} <= placed
    assert all((tmp_path / name).stat().st_mode & 0o444 == 0o444 for name in placed)
    assert "ExecStart=/usr/bin/assayd --config /etc/assay/assayd.conf" in (tmp_path / "lib/systemd/system/assayd.service").read_text()
    (tmp_path / "etc/assay/assayd.conf").write_text("model = mine\n")
    subprocess.run([*words, "install"], cwd=ROOT, env=env, check=True, timeout=600 * PATIENCE)
    subprocess.run([*words, "uninstall"], cwd=ROOT, env=env, check=True, timeout=60)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["etc/assay/assayd.conf"] and (tmp_path / left[0]).read_text() == "model = mine\n"
