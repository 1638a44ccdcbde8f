"""Statistics of compiled kernels, read from the ELF sections of a cubin."""

from __future__ import annotations

import re
import struct

from cubie_flow.kernels.targets.cuda_code import CompilerStats

#: Type of a section without contents.
_NO_BITS = 8


def sections(cubin: bytes) -> dict[str, bytes]:
    """Return the sections of a cubin, which is a 64-bit ELF file, by name.

    A section without contents, such as reserved shared memory, is empty here.
    """
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    text, contents = headers[names][4], {}
    for name, kind, _, _, start, length in headers:
        end = cubin.index(b"\0", text + name)
        content = b"" if kind == _NO_BITS else cubin[start : start + length]
        contents[cubin[text + name : end].decode()] = content
    return contents


# Attributes of ``.nv.info``, each of a symbol and a number, as cuobjdump names them.
_EIFMT_SVAL, _EIATTR_REGCOUNT, _EIATTR_MIN_STACK_SIZE = 0x04, 0x2F, 0x12


def _attribute(info: bytes, wanted: int) -> int:
    """Return the largest value of an attribute among the functions of a cubin."""
    largest = position = 0
    while position + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, position)
        position += 4
        if form == _EIFMT_SVAL:
            if attribute == wanted and size == 8:
                largest = max(largest, struct.unpack_from("<2I", info, position)[1])
            position += size
    return largest


def compiler_stats(log: str, cubin: bytes) -> CompilerStats:
    """Return the statistics of a cubin; `log` is the assembler's, which reports the spills."""
    parts = sections(cubin)
    info = parts.get(".nv.info", b"")
    stack = _attribute(info, _EIATTR_MIN_STACK_SIZE)

    def spilled(kind: str) -> int:
        # The log may be incomplete. There are no spills without a stack, which also bounds them.
        amounts = [int(value) for value in re.findall(rf"(\d+) bytes spill {kind}", log)]
        return max(amounts, default=stack)

    def total(prefix: str) -> int:
        return sum(len(part) for name, part in parts.items() if name.startswith(prefix))

    return CompilerStats(
        registers=_attribute(info, _EIATTR_REGCOUNT),
        stack=stack,
        spill_stores=spilled("stores"),
        spill_loads=spilled("loads"),
        constant=total(".nv.constant"),
        code=total(".text"),
    )
