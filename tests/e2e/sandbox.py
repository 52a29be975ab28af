"""What a unit's SystemCallFilter leaves of the system calls, in force on a child of this process, without a systemd that runs."""
import ctypes
import functools
import re
import shutil
import struct
import subprocess

NO_NEW_PRIVS, SECCOMP, FILTER = 38, 22, 2  # of prctl
ALLOW, EPERM = 0x7FFF0000, 0x00050001      # what a filter returns


def is_there():
    return bool(shutil.which("systemd-analyze") and shutil.which("cc"))


@functools.cache
def groups():
    """The names in each group, groups among them."""
    text = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True, timeout=60).stdout
    found, name = {}, None
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
            found[name] = []
        elif name and re.fullmatch(r"    @?[a-z0-9_-]+", line):
            found[name].append(line.strip())
    assert "@system-service" in found and "@default" in found
    return found


def names(words):
    """All calls that these names and groups stand for."""
    all_of = set()
    for word in words:
        all_of |= names(groups()[word]) if word.startswith("@") else {word}
    return all_of


def allowed(unit):
    """The calls that a unit's text allows, line after line, as systemd.exec(5) says."""
    left = names(["@default"])
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.M):
        if line.startswith("~"):
            left -= names(line[1:].split())
        else:
            left |= names(line.split())
    return left


@functools.cache
def numbers():
    text = subprocess.run(["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)$", text, re.M)}


def program(unit):
    """The filter: the call's number is one of those allowed, or the call fails with EPERM."""
    known = numbers()
    code = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the number
    for name in sorted(allowed(unit)):
        if name in known:
            code += [struct.pack("HBBI", 0x15, 0, 1, known[name]), struct.pack("HBBI", 0x06, 0, 0, ALLOW)]
    return code + [struct.pack("HBBI", 0x06, 0, 0, EPERM)]


def preexec(unit):
    """For Popen: the child has the filter of this unit's text."""
    code = b"".join(program(unit))

    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    filled, libc = Program(len(code) // 8, code), ctypes.CDLL(None, use_errno=True)

    def enter():
        if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.prctl(SECCOMP, FILTER, ctypes.byref(filled), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")

    return enter
