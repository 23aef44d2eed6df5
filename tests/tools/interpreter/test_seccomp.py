"""The filters, run by a small BPF machine here: what they answer, for both architectures, call by call."""

from __future__ import annotations

import errno
import struct

import pytest

from chatglm3.tools.interpreter.box import seccomp

ALLOW = 0x7FFF0000
REFUSE = 0x00050000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AF_UNIX, AF_INET, AF_NETLINK = 1, 2, 16
STREAM, DATAGRAM = 1, 2


def answer(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do with a system call. <https://www.kernel.org/doc/Documentation/networking/filter.txt>"""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"unknown operation {operation:#x}")


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("platform.machine", lambda: request.param)
    return str(request.param)


def pick(machine: str, numbers: tuple[int, int]) -> int:
    return numbers[list(ARCHITECTURES).index(machine)]


READ, MOUNT, SOCKET, CLONE, IOCTL = (0, 63), (165, 40), (41, 198), (56, 220), (16, 29)
EXECVE, KILL, CONNECT, FCHMOD = (59, 221), (62, 129), (42, 203), (91, 52)


def test_the_base_filter(machine: str) -> None:
    program, own = seccomp.base_filter(), ARCHITECTURES[machine]

    def ask(numbers: tuple[int, int], *arguments: int) -> int:
        return answer(program, own, pick(machine, numbers), *arguments)

    assert ask(READ, 0) == ALLOW
    assert ask(MOUNT) == REFUSE | errno.EPERM
    assert ask(SOCKET, AF_UNIX, STREAM) == ALLOW
    assert ask(SOCKET, AF_INET, STREAM) == REFUSE | errno.EACCES
    assert ask(SOCKET, AF_NETLINK, 3) == REFUSE | errno.EOPNOTSUPP
    assert ask(CLONE, 0x01200011) == ALLOW
    assert ask(CLONE, 0x10000011) == REFUSE | errno.EPERM
    assert ask((435, 435)) == REFUSE | errno.ENOSYS
    assert ask(IOCTL, 0, 0x5412) == REFUSE | errno.EPERM
    assert ask(IOCTL, 0, 0x5413) == ALLOW
    assert ask(EXECVE) == ALLOW
    assert ask((463, 463)) == REFUSE | errno.ENOSYS
    assert ask((0x40000000, 0x40000000)) == REFUSE | errno.ENOSYS
    assert answer(program, 0x40000003, 3) == REFUSE | errno.ENOSYS


def test_the_filter_for_a_single_process(machine: str) -> None:
    program, own = seccomp.single_process_filter(1234), ARCHITECTURES[machine]

    def ask(numbers: tuple[int, int], *arguments: int) -> int:
        return answer(program, own, pick(machine, numbers), *arguments)

    assert ask(EXECVE) == REFUSE | errno.EPERM
    assert ask(CLONE, 0x3D0F00) == ALLOW  # a thread
    assert ask(CLONE, 0x01200011) == REFUSE | errno.EPERM
    assert ask(KILL, 1234, 15) == ALLOW
    for pid in (0, 1, 4321, 0xFFFFFFFF):
        assert ask(KILL, pid, 9) == REFUSE | errno.EPERM
    assert ask(CONNECT) == REFUSE | errno.EPERM
    assert ask(SOCKET, AF_UNIX, STREAM | 0o2000000) == ALLOW
    assert ask(SOCKET, AF_UNIX, DATAGRAM) == REFUSE | errno.EOPNOTSUPP
    assert ask(FCHMOD, 3, 0o777) == REFUSE  # no error: it pretends
    assert ask(READ, 0) == ALLOW


def test_jumps_stay_within_a_program(machine: str) -> None:
    for program in (seccomp.base_filter(), seccomp.single_process_filter(1)):
        assert len(program) // 8 < 4096
        for number in range(470):
            assert answer(program, ARCHITECTURES[machine], number) & 0xFFFF0000 in (ALLOW, REFUSE)
