"""The AArch64 emulator in a process of its own: `python -m edgekit.runtimes.arm_child`, spoken to through its pipes.

The emulator (unicorn) is GPL-2, so it is imported here and nowhere else, and only messages (`pipe.py`) cross. A fault
of the emulated code is an answer; a fault of the emulator ends this process alone. Requests, with their answers:

    load   data: a shared library                        {"symbols": [names]}
    map    size, writable; data: first bytes             {"address": 64-byte aligned}
    write  address; data                                 {}
    read   address, size                                 {}, data
    call   symbol, args (integers), count, limit (s)     {"result": x0 as int32, "instructions": n, 0 if not count}
    any                                                  {"error": what went wrong} in place of these

The address space: page 0 is never mapped, so null pointers fault; code and data have the rights that the library asks
for; between two mapped regions lies at least one page that faults.
"""
import os
import signal
import sys

from edgekit.errors import EdgekitError
from edgekit.runtimes import elf, pipe

IMAGE, STOP, STACK, HEAP = 0x4000_0000, 0x1000_0000, 0x2000_0000, 0x1_0000_0000
STACK_BYTES = 1 << 20
END = 1 << 40


class Machine:
    """An AArch64 core in user-like state with one library loaded. model: "a72" or "max"."""

    def __init__(self, model: str) -> None:
        import unicorn
        from unicorn import arm64_const as registers
        self.unicorn, self.r = unicorn, registers
        self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self.uc.ctl_set_cpu_model(getattr(registers, f"UC_CPU_ARM64_{model.upper()}"))
        self.uc.reg_write(registers.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # else every floating-point instruction traps
        self.uc.mem_map(STOP, elf.PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)  # functions return to here
        self.uc.mem_map(STACK, STACK_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self.symbols: dict[str, int] = {}
        self.top = HEAP

    def load(self, data: bytes) -> list[str]:
        """Maps a library, patches its words, returns the names of its symbols."""
        image = elf.parse(data)
        rights: dict[int, int] = {}  # of each page: segments may share one
        for s in image.segments:
            for page in range(s.address & -4096, s.address + s.size, 4096):
                rights[page] = rights.get(page, 0) | s.flags
        for page, flags in sorted(rights.items()):
            self.uc.mem_map(IMAGE + page, 4096, self._rights(flags))
        for s in image.segments:
            self.uc.mem_write(IMAGE + s.address, s.data)
        for address, value in image.words:
            self.uc.mem_write(IMAGE + address, (IMAGE + value).to_bytes(8, "little"))
        self.symbols = {name: IMAGE + value for name, value in image.symbols.items()}
        return sorted(self.symbols)

    def map(self, size: int, writable: bool, data: bytes) -> int:
        """A new region of zeros with `data` at its start."""
        length = max(size, len(data), 1) + elf.PAGE - 1 & -elf.PAGE
        if length > END - self.top:
            raise MemoryError
        address, rights = self.top, self.unicorn.UC_PROT_READ | (self.unicorn.UC_PROT_WRITE if writable else 0)
        self.uc.mem_map(address, length, rights)
        self.uc.mem_write(address, data)
        self.top += length + elf.PAGE
        return address

    def call(self, symbol: str, args: list[int], count: bool, limit: float) -> tuple[int, int]:
        """x0 as a signed 32-bit number and, with `count`, the number of instructions executed (else 0)."""
        uc, r, instructions = self.uc, self.r, 0

        def block(_uc, _address, size, _data):  # a block runs whole and an instruction has 4 bytes: the sum is exact
            nonlocal instructions
            instructions += size // 4

        for k, value in enumerate(args[:8]):
            uc.reg_write(r.UC_ARM64_REG_X0 + k, value)
        uc.mem_write(STACK + STACK_BYTES - 256, b"".join(value.to_bytes(8, "little") for value in args[8:]))
        uc.reg_write(r.UC_ARM64_REG_SP, STACK + STACK_BYTES - 256)
        uc.reg_write(r.UC_ARM64_REG_LR, STOP)
        hook = uc.hook_add(self.unicorn.UC_HOOK_BLOCK, block) if count else None
        if count:
            uc.ctl_flush_tb()  # code translated without the hook would not be counted
        try:
            uc.emu_start(self.symbols[symbol], STOP, timeout=int(limit * 1e6))
        except self.unicorn.UcError as e:
            at = self._place(uc.reg_read(r.UC_ARM64_REG_PC))
            raise RuntimeError(f"the AArch64 code stopped {at} ({e})") from None
        finally:
            if hook is not None:
                uc.hook_del(hook)
                uc.ctl_flush_tb()
        if uc.reg_read(r.UC_ARM64_REG_PC) != STOP:
            raise RuntimeError(f"the AArch64 code did not end within {limit:g} s of emulation")
        result = uc.reg_read(r.UC_ARM64_REG_W0)
        return result - (result >> 31 << 32), instructions

    def _place(self, pc: int) -> str:
        """Where a program counter is, in words: the nearest symbol before it."""
        before = [(value, name) for name, value in self.symbols.items() if value <= pc < IMAGE + (1 << 30)]
        if not before:
            return f"at {pc:#x}"
        value, name = max(before)
        return f"in {name}+{pc - value:#x}"

    def _rights(self, flags: int) -> int:
        u = self.unicorn
        known = {1: u.UC_PROT_EXEC, 2: u.UC_PROT_WRITE, 4: u.UC_PROT_READ}
        return sum(right for bit, right in known.items() if flags & bit)


def answer(machine: Machine, request: dict, data: bytes) -> tuple[dict, bytes]:
    """One request done."""
    op = request["op"]
    if op == "load":
        return {"symbols": machine.load(data)}, b""
    if op == "map":
        return {"address": machine.map(request["size"], request["writable"], data)}, b""
    if op == "write":
        machine.uc.mem_write(request["address"], data)
        return {}, b""
    if op == "read":
        return {}, bytes(machine.uc.mem_read(request["address"], request["size"]))
    result, instructions = machine.call(request["symbol"], request["args"], request["count"], request["limit"])
    return {"result": result, "instructions": instructions}, b""


def main() -> None:
    """Serves requests from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process when it wants
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to standard error and not among the messages
    machine = Machine(sys.argv[1])
    while True:
        try:
            request, data = pipe.receive(source)
        except EOFError:
            return
        try:
            reply, out = answer(machine, request, data)
        except MemoryError:
            reply, out = {"error": "not enough memory for the emulated device"}, b""
        except EdgekitError as e:
            reply, out = {"error": e.what, "fix": e.fix}, b""
        except (RuntimeError, machine.unicorn.UcError) as e:
            reply, out = {"error": str(e)}, b""
        pipe.send(sink, reply, out)


if __name__ == "__main__":
    main()
