"""System calls that Python's os module lacks, by name. Linux only; each raises OSError."""

from __future__ import annotations

import ctypes
import os
import platform

# Numbers that are the same on every architecture: those of calls newer than Linux 5.0.
PIDFD_OPEN, MOUNT_SETATTR = 434, 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38

_AT_FDCWD, _AT_RECURSIVE, _AT_EMPTY_PATH = -100, 0x8000, 0x1000
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *args: object) -> int:
    """A system call by its number."""
    return _checked(_libc.syscall(ctypes.c_long(number), *args))


def unshare(flags: int) -> None:
    """Move this process (or, with CLONE_NEWPID, its next children) into new namespaces."""
    _checked(_libc.unshare(flags))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    code = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode(),
    )
    _checked(code, target)


def make_read_only(path: str) -> None:
    """Make a mount and those below it read-only, without devices and set-user-ID programs."""
    attributes = (ctypes.c_uint64 * 4)(
        MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0
    )  # the same bits as MOUNT_ATTR_*
    syscall(
        MOUNT_SETATTR,
        ctypes.c_long(_AT_FDCWD),
        path.encode(),
        ctypes.c_long(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root, and put what was the root at `old`."""
    number = {"x86_64": 155, "aarch64": 41}[platform.machine()]
    syscall(number, new.encode(), old.encode())


def unmount(path: str) -> None:
    """Take a mount and those below it away, even if it is in use."""
    _checked(_libc.umount2(path.encode(), MNT_DETACH), path)


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument."""
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def drop_capabilities() -> None:
    """Give up every privilege, for good."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(nothing)))


def pidfd_open(pid: int) -> int:
    """A descriptor that becomes readable when the process ends."""
    return syscall(PIDFD_OPEN, ctypes.c_long(pid), ctypes.c_long(0))


def _checked(code: int, path: str | None = None) -> int:
    if code < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return code
