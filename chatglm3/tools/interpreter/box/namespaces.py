"""A view of the machine in which there is only the box: its own files, processes, users and no network.

<https://man7.org/linux/man-pages/man7/namespaces.7.html>. The order follows from what each step still needs:
`enter` in the first process, then `build_root` and `become_nobody` in its child, process 1 of the box.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from . import syscalls
from .syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT

USER = 1000
"""The user in the box. Outside it is whoever runs the program, or `_NOBODY` if that is root."""
_NOBODY = 65534
_ALL = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)
_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/fonts",
    "/etc/localtime",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_OLD = "/old"


def enter() -> None:
    """Leave for new namespaces; the next child is process 1 in them. Raises OSError.

    Root maps a second user, for the code: in a user namespace, root is still the owner of root's files.
    """
    user, group = os.geteuid(), os.getegid()
    root = user == 0
    users = f"0 0 1\n{USER} {_NOBODY} 1" if root else f"{USER} {user} 1"
    groups = f"0 0 1\n{USER} {_NOBODY} 1" if root else f"{USER} {group} 1"
    process = f"/proc/{os.getpid()}"
    entered, tell = os.pipe()
    helper = os.fork()
    if helper == 0:  # only from outside can one map more than oneself
        try:
            os.close(tell)
            if os.read(entered, 1):
                if not root:
                    Path(process, "setgroups").write_text("deny")
                Path(process, "gid_map").write_text(groups)
                Path(process, "uid_map").write_text(users)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    os.close(entered)
    try:
        syscalls.unshare(_ALL)
        os.write(tell, b"x")
    finally:
        os.close(tell)
        code = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if code:
        raise OSError(code, f"cannot map users: {os.strerror(code)}")


def build_root(readable: Iterable[str], disk_bytes: int) -> None:
    """Make a root that holds system programs and `readable`, all read-only, and folders for the box.

    Writable are /mnt/data, /tmp, /home/user, /dev/shm and /run/kernel: one file system in memory, of
    `disk_bytes` for all of them. Raises OSError.
    """
    syscalls.mount("none", "/", flags=MS_REC | MS_PRIVATE)
    syscalls.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp" + _OLD)
    syscalls.pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    for path in _SYSTEM:
        _show(path, path)
    _make_devices()
    _make_writable(disk_bytes)
    # Last, for a Python environment may lie below /tmp or /home/user, which have just been covered.
    for path in sorted(set(readable)):
        _show(path, path)
    os.mkdir("/proc")
    syscalls.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    Path("/etc").mkdir(exist_ok=True)
    Path("/etc/passwd").write_text(f"user:x:{USER}:{USER}::/home/user:/bin/sh\n")
    Path("/etc/group").write_text(f"user:x:{USER}:\n")
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n")
    syscalls.unmount(_OLD)
    os.rmdir(_OLD)
    syscalls.mount("none", "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def become_nobody() -> None:
    """Become the user of the box, without privileges. Raises OSError."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    syscalls.drop_capabilities()


def _show(path: str, target: str) -> None:
    """Make a file, folder or link of the old root visible, read-only."""
    source = _OLD + path
    if os.path.lexists(target) or not os.path.lexists(source):
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if os.path.islink(source):
        # A link that leaves the visible tree is shown as what it leads to.
        link = os.readlink(source)
        if os.path.dirname(path) == "/" and not link.startswith("/"):
            os.symlink(link, target)
            return
        source = _OLD + os.path.normpath(os.path.join(os.path.dirname(path), link))
        if not os.path.exists(source):
            return
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        Path(target).touch()
    syscalls.mount(source, target, flags=MS_BIND | MS_REC)
    syscalls.make_read_only(target)


def _make_devices() -> None:
    os.mkdir("/dev")
    for name in _DEVICES:
        Path("/dev", name).touch()
        syscalls.mount(f"{_OLD}/dev/{name}", f"/dev/{name}", flags=MS_BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/pts")
    syscalls.mount(
        "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=600"
    )
    os.symlink("pts/ptmx", "/dev/ptmx")


def _make_writable(disk_bytes: int) -> None:
    os.mkdir("/writable")
    options = f"size={disk_bytes},nr_inodes=50000,mode=700,uid={USER},gid={USER}"
    syscalls.mount("tmpfs", "/writable", "tmpfs", MS_NOSUID | MS_NODEV, options)
    for target in ("/mnt/data", "/tmp", "/home/user", "/dev/shm", "/run/kernel"):
        source = "/writable" + target
        os.makedirs(source)
        os.chown(source, USER, USER)
        os.makedirs(target, exist_ok=True)
        syscalls.mount(source, target, flags=MS_BIND)
    syscalls.unmount("/writable")
    os.rmdir("/writable")
