"""Probes of bpf(2): programs of a few instructions are loaded, maps made; nothing is attached.

What is made has no name and no other holder than the child that the probes run in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from meshnet.host import gate
from meshnet.host.capabilities import held
from meshnet.host.modules import KernelParts
from meshnet.model.feature import Answer, Feature, missing, ok, untold

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[Feature, KernelParts], Answer]

#: The number of bpf(2); arm64, riscv64 and loongarch64 share the generic table.
_SYSCALL = {"x86_64": 321, "ppc64le": 361, "s390x": 351}.get(os.uname().machine, 280)
_MAP_CREATE, _PROG_LOAD, _BTF_LOAD, _LINK_CREATE = 0, 5, 18, 28
_NOBODY = 0xFFFFFFFF
_TRACE_RAW_TP = 23
_NEEDED = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")
#: How a kernel says that it does not know a type, a field or a helper (524 is ENOTSUPP).
_UNKNOWN = (errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP, errno.ENOENT, errno.ESRCH, 524)


def _code(op: int, to: int = 0, of: int = 0, jump: int = 0, number: int = 0) -> bytes:
    registers = of << 4 | to if sys.byteorder == "little" else to << 4 | of
    return struct.pack("=BBhi", op, registers, jump, number)


def _call(helper: int) -> bytes:
    return _code(0x85, number=helper)


#: r0 = 1; exit: let it pass, whatever the hook.
_PASS = _code(0xB7, number=1) + _code(0x95)
_QUIET = _code(0xB7) + _code(0x95)
_GET_NETNS_COOKIE, _SKC_TO_TCP_SOCK = 122, 137
_COOKIE = _call(_GET_NETNS_COOKIE) + _PASS
#: r1 = ctx->sk (struct bpf_sock_addr); where there is one, its TCP socket.
_CREDENTIALS = _code(0x79, 1, 1, 64) + _code(0x15, 1, jump=1) + _call(_SKC_TO_TCP_SOCK) + _PASS
#: Name: program type, attach type, code (include/uapi/linux/bpf.h).
PROGRAMS = {
    "connect4": (18, 10, _PASS),
    "connect6": (18, 11, _PASS),
    "connect_cookie": (18, 10, _COOKIE),
    "connect_credentials": (18, 10, _CREDENTIALS),
    "sendmsg4": (18, 14, _PASS),
    "sendmsg6": (18, 15, _PASS),
    "recvmsg4": (18, 19, _PASS),
    "recvmsg6": (18, 20, _PASS),
    "getpeername4": (18, 29, _PASS),
    "getpeername6": (18, 30, _PASS),
    "sock_create": (9, 2, _PASS),
    "getsockopt": (25, 21, _PASS),
    "sock_ops": (13, 3, _PASS),
    "sock_ops_cookie": (13, 3, _COOKIE),
    "sk_msg": (16, 7, _PASS),
    "sk_msg_cookie": (16, 7, _COOKIE),
    "sk_lookup": (30, 36, _PASS),
    "tp_btf": (26, _TRACE_RAW_TP, _QUIET),
    "raw_tracepoint": (17, 0, _QUIET),
}
#: Name: map type, size of key and value, entries, flags.
MAPS = {
    "lru_hash": (9, 4, 4, 1, 0),
    "hash_of_maps": (13, 4, 4, 1, 0),
    "sockhash": (18, 4, 4, 1, 0),
    "sk_storage": (24, 4, 4, 0, 1),
    "ringbuf": (27, 0, 0, 1 << 16, 0),
}


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2): what it returns. Raises OSError with the kernel's errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = gate.touch(
        f"bpf command {command}",
        lambda: int(libc.syscall(_SYSCALL, command, buffer, len(attributes))),
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _load(name: str, target: int = 0) -> int:
    """Load a program of PROGRAMS; ``target`` is the BTF id that a tracing program is for."""
    kind, attach, code = PROGRAMS[name]
    instructions = ctypes.create_string_buffer(code, len(code))
    license_name = ctypes.create_string_buffer(b"GPL")
    addresses = ctypes.addressof(instructions), ctypes.addressof(license_name)
    head = struct.pack("=IIQQIIQII16s", kind, len(code) // 8, *addresses, 0, 0, 0, 0, 0, b"probe")
    tail = struct.pack("=IIIIQIIQIIII", 0, attach, 0, 0, 0, 0, 0, 0, 0, target, 0, 0)
    return bpf(_PROG_LOAD, head + tail)


def _program(feature: Feature, parts: KernelParts) -> Answer:
    names = feature.probe[1:]
    for name in names:
        target = 0
        if name == "tp_btf":
            target = _tracepoint(b"inet_sock_set_state")
            if target <= 0:
                return untold("libbpf.so.1 finds no BTF of the kernel", "install libbpf1")
        try:
            os.close(_load(name, target))
        except OSError as e:
            return _refused(e, f"a program of type {name}")
    return ok(f"{' and '.join(names)} loaded")


def _tracepoint(name: bytes) -> int:
    """The BTF id of a raw tracepoint; not above 0 where it cannot be found."""
    try:
        library = ctypes.CDLL("libbpf.so.1")
        library.libbpf_set_print(None)
        return int(library.libbpf_find_vmlinux_btf_id(name, _TRACE_RAW_TP))
    except (OSError, AttributeError):
        return 0


def _map(feature: Feature, parts: KernelParts) -> Answer:
    name = feature.probe[1]
    made: list[int] = []
    try:
        inner = btf = 0
        if name == "hash_of_maps":
            inner = _create((1, 4, 4, 1, 0))
            made.append(inner)
        if name == "sk_storage":
            btf = _load_btf()
            made.append(btf)
        made.append(_create(MAPS[name], inner, btf))
    except OSError as e:
        return _refused(e, f"a map of type {name}")
    finally:
        for fd in made:
            os.close(fd)
    return ok(f"a map of type {name} was made")


def _create(shape: tuple[int, int, int, int, int], inner: int = 0, btf: int = 0) -> int:
    kinds = (1, 1) if btf else (0, 0)
    names = struct.pack("=I16sIIII", 0, b"probe", 0, btf, *kinds)
    return bpf(_MAP_CREATE, struct.pack("=IIIIII", *shape, inner) + names)


def _load_btf() -> int:
    """Type information of one kind, int: a socket's storage must say what is in it."""
    types = struct.pack("=IIII", 1, 1 << 24, 4, 32)
    words = b"\0int\0"
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(words))
    text = head + types + words
    buffer = ctypes.create_string_buffer(text, len(text))
    return bpf(_BTF_LOAD, struct.pack("=QQIIII", ctypes.addressof(buffer), 0, len(text), 0, 0, 0))


def _link(feature: Feature, parts: KernelParts) -> Answer:
    """A link to a descriptor that is none: a kernel with such links says so, others do not know."""
    name = feature.probe[1]
    try:
        program = _load(name)
    except OSError as e:
        return _refused(e, f"a program of type {name}")
    try:
        bpf(_LINK_CREATE, struct.pack("=IIII", program, _NOBODY, PROGRAMS[name][1], 0))
    except OSError as e:
        if e.errno != errno.EBADF:
            return _refused(e, f"a link for {name}")
    finally:
        os.close(program)
    return ok(f"the kernel knows links for {name}")


def _refused(error: OSError, what: str) -> Answer:
    if error.errno in (errno.EPERM, errno.EACCES):
        have = held()
        lacking = [name for name in _NEEDED if name not in have]
        if lacking and not {"CAP_SYS_ADMIN", "CAP_NET_ADMIN"} <= have:
            return untold(f"bpf(2) needs {', '.join(lacking)}", "run as root on the machine itself")
        return untold(
            f"bpf(2) refuses {what} to this process: {error.strerror}",
            "look at user namespaces, seccomp, kernel lockdown and the limit of locked memory",
        )
    if error.errno == errno.ENOSYS:
        return missing("this kernel has no bpf(2)", "boot a kernel with CONFIG_BPF_SYSCALL")
    if error.errno in _UNKNOWN:
        return missing(f"the kernel does not know {what}: {error.strerror}")
    return untold(f"{what} was refused: {error.strerror}")


def _library(feature: Feature, parts: KernelParts) -> Answer:
    _, name, function = feature.probe
    try:
        library = ctypes.CDLL(name)
    except OSError as e:
        return missing(f"it cannot be loaded: {e}")
    try:
        tell = getattr(library, function)
    except AttributeError:
        return ok("loaded, without a word on its version")
    tell.restype = ctypes.c_char_p
    return ok(f"loaded, {tell().decode('utf-8', 'replace')}")


#: By the first word of a feature's probe.
BPF_PROBES: dict[str, Probe] = {
    "program": _program,
    "map": _map,
    "link": _link,
    "library": _library,
}
