"""Runs a command for which the kernel has no IPv6: socket(AF_INET6, …) fails with EAFNOSUPPORT.

without_ipv6.py COMMAND ARGUMENT…"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
# Offsets in the kernel's struct seccomp_data; both architectures are little-endian.
NUMBER, FIRST_ARGUMENT = 0, 16
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]


def instruction(code, if_true, if_false, value):
    return struct.pack("=HBBI", code, if_true, if_false, value)


program = [
    instruction(LOAD_WORD, 0, 0, NUMBER),
    instruction(JUMP_IF_EQUAL, 0, 3, SOCKET),
    instruction(LOAD_WORD, 0, 0, FIRST_ARGUMENT),
    instruction(JUMP_IF_EQUAL, 0, 1, socket.AF_INET6),
    instruction(RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EAFNOSUPPORT),
    instruction(RETURN, 0, 0, SECCOMP_RET_ALLOW),
]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


instructions = ctypes.create_string_buffer(b"".join(program))
filtered = Program(len(program), ctypes.addressof(instructions))
prctl = ctypes.CDLL(None, use_errno=True).prctl
for arguments in [(PR_SET_NO_NEW_PRIVS, 1), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filtered))]:
    padded = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments[1:]]
    padded += [ctypes.c_ulong(0)] * (4 - len(padded))
    if prctl(arguments[0], *padded):
        raise OSError(ctypes.get_errno(), f"prctl({arguments[0]})")
os.execv(sys.argv[1], sys.argv[1:])
