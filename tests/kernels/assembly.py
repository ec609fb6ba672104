"""Hot loops in assembly text: what LLVM made of a kernel's innermost loop, counted without a clock."""
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Loop:
    """An innermost loop. products: vector multiply-adds; instructions: all of a turn (on wasm without moves of locals and
    constants, which engines drop); stack: loads and stores of the stack frame, which are spills."""

    products: int
    instructions: int
    stack: int
    text: str


@dataclass(frozen=True)
class Syntax:
    product: str   # a multiply-add of vectors; on wasm the multiplication of a pair
    pair: str      # what else belongs to it
    jump: str      # a jump, its label as group 1
    stack: str     # an access to the stack frame
    frame: str     # what makes a register the base of the frame, that register as group 1
    free: str      # instructions that cost nothing


SYNTAXES = {
    "x86": Syntax(r"v?fn?madd\d+ps|vmulps|mulps", r"$^", r"j\w+\s+(\.L\w+)", r"\(%rsp", r"movq\s+%rsp, (%rbp)", r"$^"),
    "arm": Syntax(r"fmla", r"$^", r"(?:b\.?\w*|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.L\w+)", r"\[sp\b", r"(?:mov|add)\s+(x29), sp", r"$^"),
    "wasm": Syntax(r"f32x4\.mul|f32x4\.relaxed_madd", r"f32x4\.add", r"$^", r"__stack_pointer", r"$^",
                   r"local\.|i32\.const|i64\.const|v128\.const|end_block|block|end_loop|loop"),
}


def hot_loop(text: str, syntax: Syntax) -> Loop:
    """The innermost loop with the most multiply-adds."""
    lines = [line.split("#")[0].split("//")[0].strip() for line in text.splitlines()]
    spans = _wasm_loops(lines) if syntax is SYNTAXES["wasm"] else _loops(lines, syntax)
    inner = [(a, b) for a, b in spans if not any((a, b) != (c, d) and a <= c and d <= b for c, d in spans)]
    frame = re.search(syntax.frame, text)
    stack = re.compile(syntax.stack + (rf"|[(\[]{frame[1]}\b" if frame else ""))
    return max((_counted(lines[a:b + 1], syntax, stack) for a, b in inner), key=lambda loop: loop.products)


def _loops(lines: list[str], syntax: Syntax) -> list[tuple[int, int]]:
    """From each label that is jumped back to, to the last such jump."""
    labels = {line[:-1]: k for k, line in enumerate(lines) if line.endswith(":")}
    ends: dict[int, int] = {}
    for k, line in enumerate(lines):
        jump = re.match(syntax.jump, line)
        if jump and labels.get(jump[1], k) < k:
            ends[labels[jump[1]]] = k
    return list(ends.items())


def _wasm_loops(lines: list[str]) -> list[tuple[int, int]]:
    found, open_ = [], []
    for k, line in enumerate(lines):
        if re.match(r"loop\b", line):
            open_.append(k)
        elif line.startswith("end_loop"):
            found.append((open_.pop(), k))
    return found


def _counted(lines: list[str], syntax: Syntax, stack: re.Pattern) -> Loop:
    code = [line for line in lines if line and not line.endswith(":") and not line.startswith(".")]
    code = [line for line in code if not re.match(syntax.free, line)]
    products = sum(bool(re.match(syntax.product, line)) for line in code)
    pairs = sum(bool(re.match(syntax.pair, line)) for line in code)
    return Loop(products, len(code) - min(pairs, products), sum(bool(stack.search(line)) for line in code), "\n".join(code))
