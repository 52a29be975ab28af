"""What can be said of the kernels without running them, as a table in Markdown.

From ptxas, for sm_80 and sm_90: registers, spilled bytes, and from these and the launch's shared
memory how many blocks an SM holds. From cuobjdump (which needs nvdisasm), where it is found: the instructions that matter.
Exit status 1 when a kernel spills, or when attention has no tensor-core, ldmatrix or cp.async
instruction, or a kernel over rows none of 16 bytes.

    make evidence        (CUOBJDUMP=path where it is not beside nvcc)
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ARCHS = {"sm_80": {"shared": 163 * 1024}, "sm_90": {"shared": 227 * 1024}}
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32  # of one SM, both
TYPES = {"6bf16_t": "bf16", "5f16_t": "f16", "f": "f32", "4f8_t": "fp8", "a": "int8"}
# A model of 3584 columns, 18944 in the MLP: the block that a launch of it has.
ROW_THREADS, MLP_THREADS = 448, 1024
INSTRUCTIONS = {"HMMA": r"\bHMMA\.", "LDSM": r"\bLDSM\.", "LDGSTS": r"\bLDGSTS\.",
                "LDG.128": r"\bLDG\.E\.128", "STG.128": r"\bSTG\.E\.128",
                "local": r"\b(?:LDL|STL)\b"}
UNITS = {"10simt_vec16": "16 bytes", "j": "4 bytes", "t": "2 bytes", "h": "1 byte"}


def launch(name: str, template: str) -> tuple:
    """(threads, bytes of shared memory) of a block, as the launchers in cuda/ ask for it."""
    if name == "attention_kernel":
        return 128, 4 * 64 * (int(template.split(", ")[1]) + 8) * 2
    if name == "attention_simt_kernel":
        return 256, (2 * 64 * (int(template.split(", ")[1]) + 1) + 64 * 65) * 4
    if name in ("rms_norm_kernel", "quantize_kernel", "measure_kernel", "round_kernel"):
        return ROW_THREADS, 128
    if name == "swiglu_quantized_kernel":
        return MLP_THREADS, 128
    if name == "unpack_kernel":
        order, _, bits = map(int, template.split(", ")[:3])
        words, lines = 2 * bits, 64 if order != 1 else 2 * bits
        return 256, 4 * lines * ((64 if order == 1 else 8 if order == 2 else words) + 1)
    if name == "adapter_kernel":
        columns = int(template.split(", ")[2])
        return (256 if columns == 64 else 128), 4 * 32 * (68 + columns)
    if name in ("embed_kernel", "gather_kernel", "keep_kernel"):
        return ROW_THREADS, 0
    return {"pool_kernel": (128, 132), "relu_kernel": (128, 0), "add_bias_kernel": (128, 0),
            "head_norm_kernel": (128, 0)}.get(name, (256, 0))


def readable(symbol: str) -> tuple:
    """(kernel, template arguments) of a mangled name."""
    found = re.search(r"\d+([a-z_]+_kernel)(?:I(.*?)EEv|E)", symbol)
    if not found:
        return symbol, ""
    rest, args = found.group(2) or "", []
    while rest:
        number = re.match(r"L(?:i|\d+[a-z_]+)(\d+)E?", rest)
        back = re.match(r"S\d*_", rest)
        known = next((k for k in TYPES if rest.startswith(k)), None)
        if number:
            args.append(number.group(1))
            rest = rest[number.end():]
        elif back:
            args.append(args[0])
            rest = rest[back.end():]
        elif known:
            args.append(TYPES[known])
            rest = rest[len(known):]
        else:
            unit = re.match(r"(\d+)([a-z_0-9]+)|[a-z]", rest)
            args.append(UNITS.get(unit.group(0), "?"))
            rest = rest[unit.end():]
    return found.group(1), ", ".join(args)


def run(command: list) -> subprocess.CompletedProcess:
    return subprocess.run(command, check=True, capture_output=True, text=True)


def compile_all(nvcc: str, arch: str, into: pathlib.Path) -> dict:
    """Kernel symbol -> (registers, spilled bytes)."""
    found = {}
    for source in sorted(pathlib.Path("cuda").glob("*.cu")):
        command = [nvcc, "-std=c++17", "-O3", "-fmad=false", f"-arch={arch}", "-I.", "-Xptxas",
                   "-v", "-cubin", str(source), "-o", str(into / f"{source.stem}.{arch}.cubin")]
        text = run(command).stderr
        for part in text.split("Compiling entry function")[1:]:
            symbol = re.search(r"'(\S+)'", part).group(1)
            spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
            found[symbol] = (int(re.search(r"Used (\d+) registers", part).group(1)), spills)
    return found


def instructions(tool: str, arch: str, into: pathlib.Path) -> dict:
    """Kernel symbol -> how often each of INSTRUCTIONS is in its code."""
    found = {}
    for binary in into.glob(f"*.{arch}.cubin"):
        text = run([tool, "-sass", str(binary)]).stdout
        for part in text.split("Function : ")[1:]:
            found[part.split()[0]] = {
                name: len(re.findall(pattern, part)) for name, pattern in INSTRUCTIONS.items()}
    return found


def blocks_per_sm(arch: str, registers: int, threads: int, shared: int) -> int:
    warps, per_warp = threads // 32, -(-registers * 32 // 256) * 256
    return min(BLOCKS, THREADS // threads, REGISTERS // (warps * per_warp),
               ARCHS[arch]["shared"] // (shared + 1024))


def complaint(name: str, spills: int, counts: dict) -> str:
    if spills:
        return f"{spills} bytes spilled"
    if not counts:
        return ""
    wanted = {"attention_kernel": ("HMMA", "LDSM", "LDGSTS", "STG.128"),
              "rms_norm_kernel": ("LDG.128",),
              "swiglu_kernel": ("LDG.128", "STG.128")}.get(name, ())
    return ", ".join(f"no {i}" for i in wanted if not counts[i])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    nvcc = parser.parse_args().nvcc
    tool = os.environ.get("CUOBJDUMP") or shutil.which("cuobjdump")
    version = re.search(r"release ([\d.]+)", run([nvcc, "--version"]).stdout).group(1)
    complaints = []
    print("# The kernels as compiled\n")
    print(f"Made by `make evidence` with CUDA {version}; do not edit. Registers and spilled bytes "
          "are from\nptxas; blocks an SM are computed from registers, threads and shared memory "
          "for rows of 3584\ncolumns. Instructions are counted in the code"
          + ("." if tool else ":\ncuobjdump was not found, so they are left out."))
    for arch in ARCHS:
        with tempfile.TemporaryDirectory() as at:
            found = compile_all(nvcc, arch, pathlib.Path(at))
            counts = instructions(tool, arch, pathlib.Path(at)) if tool else {}
        columns = ["kernel", "of", "registers", "spilled", "threads", "shared", "blocks an SM",
                   *INSTRUCTIONS]
        print(f"\n## {arch}\n\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        for symbol in sorted(found, key=readable):
            (name, template), (registers, spills) = readable(symbol), found[symbol]
            threads, shared = launch(name, template)
            row = [name, template, registers, spills, threads, shared,
                   blocks_per_sm(arch, registers, threads, shared)]
            row += [counts[symbol][i] if symbol in counts else "" for i in INSTRUCTIONS]
            print("| " + " | ".join(str(x) for x in row) + " |")
            wrong = complaint(name, spills, counts.get(symbol, {}))
            if wrong:
                complaints.append(f"{arch}: {name}<{template}>: {wrong}")
    for line in complaints:
        print(line, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
