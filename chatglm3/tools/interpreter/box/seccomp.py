"""A seccomp filter: system calls that a program which computes has no use for are refused.

A deny list, so that whatever library somebody imports works; what it leaves is bounded by the other walls.
Calls newer than `_NEWEST` and those of other architectures do not exist (ENOSYS), as in an older kernel.
<https://docs.kernel.org/userspace-api/seccomp_filter.html>
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Callable, Iterable

from . import syscalls

# name: (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "perf_event_open": (298, 241),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # parts of the kernel that break often, and that nobody misses
    "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "fanotify_init": (300, 262), "personality": (135, 92), "modify_ldt": (154, None), "vmsplice": (278, 75),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "lookup_dcookie": (212, 18),
    # memory that belongs to no process, and so escapes the memory limit
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    # the machine
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "vhangup": (153, 58), "uselib": (134, None), "nfsservctl": (180, 42), "sysfs": (139, None),
}  # fmt: skip
_PROCESSES: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130),
    # sockets of other programs, of which Landlock knows nothing
    "connect": (42, 203),
}  # fmt: skip
# Landlock does not mind these. They change nothing and say that they did, since copying a file needs them.
_PRETENDED: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
_SOCKET, _SOCKETPAIR, _CLONE, _CLONE3, _IOCTL = (41, 198), (53, 199), (56, 220), (435, 435), (16, 29)
_KILL, _TGKILL, _PRLIMIT, _PRCTL = (62, 129), (234, 131), (302, 261), (157, 167)
_NETLINK = 16
_NEWEST = 462  # mseal, Linux 6.10

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone() takes
_CLONE_THREAD = 0x10000
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing on somebody's terminal

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _MASK, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _REFUSE, _SET_MODE_FILTER = 0x7FFF0000, 0x00050000, 1
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes each
_SECCOMP = {"x86_64": 317, "aarch64": 277}

Code = list[tuple[int, int, int, int]]


def supported() -> bool:
    """Whether this architecture's calls are known here."""
    return platform.machine() in _ARCHITECTURES


def base_filter() -> bytes:
    """The filter for everything in the box: no network but Unix sockets, no way to other processes."""
    return _program(
        [
            *_refuse(_DENIED),
            *_case(_SOCKET, _only_unix),
            *_case(_SOCKETPAIR, _only_unix),
            *_case(_CLONE, lambda: _refuse_if(_ANY_BIT, 0, _NAMESPACES)),
            *_case(_CLONE3, lambda: [(_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]),  # its flags are out of sight
            *_case(
                _IOCTL, lambda: [i for request in _TERMINAL_INPUT for i in _refuse_if(_EQUAL, 1, request)]
            ),
        ]
    )


def single_process_filter(pid: int) -> bytes:
    """On top of the base filter: no new processes or programs, nobody else's sockets, files or signals."""
    return _program(
        [
            *_refuse(_PROCESSES),
            *_refuse(_PRETENDED, error=0),
            *_case(_SOCKET, _only_streams),
            *_case(_SOCKETPAIR, _only_streams),
            *_case(_PRCTL, lambda: _refuse_if(_EQUAL, 0, syscalls.PR_SET_DUMPABLE)),  # to be watched
            *_case(_CLONE, lambda: _refuse_unless(_ANY_BIT, 0, _CLONE_THREAD)),
            *_case(_KILL, lambda: _refuse_unless(_EQUAL, 0, pid)),
            *_case(_TGKILL, lambda: _refuse_unless(_EQUAL, 0, pid)),
            *_case(_PRLIMIT, lambda: _refuse_unless(_EQUAL, 0, 0)),
        ]
    )


def install(program: bytes) -> None:
    """Apply a filter to this thread and its children, for good. Needs no_new_privs. Raises OSError."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    described = Program(len(program) // 8, program)
    number = _SECCOMP[platform.machine()]
    syscalls.syscall(number, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(0), ctypes.byref(described))


def _program(cases: Code) -> bytes:
    code: Code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[platform.machine()][1]),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _NEWEST + 1),  # those of the x32 ABI are above it as well
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
        *cases,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _number(numbers: tuple[int | None, int | None]) -> int | None:
    return numbers[_ARCHITECTURES[platform.machine()][0]]


def _refuse(table: dict[str, tuple[int | None, int | None]], error: int = errno.EPERM) -> Code:
    found: Iterable[int | None] = (_number(numbers) for numbers in table.values())
    return [
        instruction
        for number in found
        if number is not None
        for instruction in ((_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | error))
    ]


def _case(numbers: tuple[int | None, int | None], body: Callable[[], Code]) -> Code:
    """`body` for one call, which begins with the number loaded and ends with it loaded again."""
    number = _number(numbers)
    if number is None:
        return []
    inside = [*body(), (_LOAD, 0, 0, _NUMBER)]
    return [(_EQUAL, 0, len(inside), number), *inside]


def _only_unix() -> Code:
    # ZeroMQ asks for the network's interfaces, and aborts on any other error than this one.
    netlink = _refuse_if(_EQUAL, 0, _NETLINK, errno.EOPNOTSUPP)
    return [*netlink, *_refuse_unless(_EQUAL, 0, socket.AF_UNIX, errno.EACCES)]


def _only_streams() -> Code:
    # A datagram may name another receiver with each message, where no filter sees it.
    return [
        (_LOAD, 0, 0, _ARGUMENT + 8),
        (_MASK, 0, 0, 0xF),
        (_EQUAL, 1, 0, socket.SOCK_STREAM),
        (_RETURN, 0, 0, _REFUSE | errno.EOPNOTSUPP),
    ]


def _refuse_if(test: int, argument: int, value: int, error: int = errno.EPERM) -> Code:
    """The lower half of an argument decides: all those that matter here are ints or flags in it."""
    return [(_LOAD, 0, 0, _ARGUMENT + 8 * argument), (test, 0, 1, value), (_RETURN, 0, 0, _REFUSE | error)]


def _refuse_unless(test: int, argument: int, value: int, error: int = errno.EPERM) -> Code:
    return [(_LOAD, 0, 0, _ARGUMENT + 8 * argument), (test, 1, 0, value), (_RETURN, 0, 0, _REFUSE | error)]
