"""The Makefile with a builder's own flags."""
import os
import platform
import subprocess

import pytest
from harness import ROOT


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
