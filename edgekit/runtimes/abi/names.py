"""Names on the C side: what a model, its entries and its inputs are called, and how library files are named."""
import platform
import re
import sys
import unicodedata

from edgekit.targets import Target

_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept const const_cast
consteval constexpr constinit continue co_await co_return co_yield decltype default delete do double dynamic_cast
else enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept not
not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires restrict return short
signed sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef
typeid typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
_MACROS = """
I IN OUT NULL EOF TRUE FALSE assert complex errno far i386 imaginary interface linux max min near small stderr stdin
stdout unix setjmp offsetof signbit isnan isinf
"""
# Functions that common headers declare: a type of that name could not be.
_LIBRARY = """
abort abs accept access acos acosh alarm asin asinh atan atan2 atanh atexit atof atoi atol bind brk bsearch calloc
cbrt ceil chdir chmod chown clock clone close connect copysign cos cosh creat ctime daemon difftime div dup dup2 erf
erfc execv exit exp exp2 expm1 fabs fclose fdim feof ferror fflush fgetc fgets floor fma fmax fmin fmod fopen fork
fputc fputs fread free frexp fscanf fseek ftell fwrite gamma getc getchar getenv gets gmtime hypot ilogb index ioctl
isatty j0 j1 jn kill labs ldexp lgamma link listen llabs localtime log log10 log1p log2 logb longjmp lrint lround
lseek main malloc memchr memcmp memcpy memmove memset mkdir mktime modf mount nan nearbyint nextafter nice open
pause perror pipe poll pow printf putc putchar puts qsort raise rand random read realloc recv remainder remove
rename rewind rindex rint rmdir round scalbn scanf select send setbuf shutdown signal sin sinh sleep snprintf socket
sprintf sqrt srand sscanf stat stpcpy strcat strchr strcmp strcpy strdup strlen strncmp strstr strtod strtok strtol
swab symlink sync system tan tanh tgamma time times tmpfile toupper trunc umask uname ungetc unlink usleep utime
vfork vprintf wait write y0 y1 yn
"""
# Headers beside which a model's own would stand, and names that Windows keeps for devices; files know no case there.
_FILES = """
assert complex ctype edgekit errno fenv inttypes iso646 limits locale math setjmp signal stdalign stdarg
stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar unistd wchar wctype
aux con nul prn com1 com2 com3 com4 com5 com6 com7 com8 com9 lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7 lpt8 lpt9
"""
_NO_FILE = frozenset(_FILES.split())
_RESERVED = frozenset(f"{_KEYWORDS} {_MACROS}".split())
_NO_TYPE = _RESERVED | frozenset(_LIBRARY.split())
C_TYPES = {  # of tensor elements; halves as their bits
    "float32": "float", "float64": "double", "float16": "uint16_t", "bfloat16": "uint16_t", "bool": "uint8_t",
    **{f"{u}int{n}": f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64)},
}


def _identifier(text: str, fallback: str) -> str:
    """ASCII letters, digits and single underscores, beginning with a letter, at most 60 characters."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_") or fallback
    if name[0].isdigit() or re.match("ek(_|$)", name, re.IGNORECASE):
        name = f"{fallback}_{name}"
    return name[:60].rstrip("_")


def _distinct(names: list[str], taken: set[str]) -> list[str]:
    """The names, each later one of equals with the first free number after it."""
    taken, result = set(taken), []
    for name in names:
        free, n = name, 2
        while free in taken:
            free, n = f"{name}_{n}", n + 1
        taken.add(free)
        result.append(free)
    return result


def model_name(name: str) -> str:
    """C name of a model: the prefix of all its symbols and the stem of its files."""
    found = _identifier(name, "model")
    taken = found in _NO_TYPE or found.lower() in _NO_FILE or found.endswith("_t")
    return f"{found}_model" if taken else found


def entry_names(entries: list[str]) -> dict[str, str]:
    """Entry name -> the end of its functions' names: "" for the first (NAME_run), "_decode" (NAME_run_decode)."""
    ends = _distinct([_identifier(e, "entry") for e in entries[1:]], set())
    return dict(zip(entries, ["", *("_" + e for e in ends)]))


def parameter_names(ports: list[str], model: str) -> list[str]:
    """C parameter names of an entry's inputs and outputs, in order; they hide no keyword, macro, type or function."""
    plain = [_identifier(p, "p") for p in ports]
    hiding = [p in _RESERVED or p == "m" or p.endswith("_t") or p.startswith(model) for p in plain]
    return _distinct([p + "_" if bad else p for p, bad in zip(plain, hiding)], set())


def comment(text: str) -> str:
    """Any name, harmless inside a C comment: printable ASCII, no way to end the comment or to splice lines."""
    return "".join(c if " " <= c <= "~" and c not in "*/\\?" else "_" for c in text)[:200]


def library_names(target: Target, name: str) -> tuple[str, str]:
    """File names of the loadable and of the static library of a model with C name `name`; "" where there is none."""
    shared = target.shared
    if not target.zig:
        shared = {"darwin": "lib{name}.dylib", "win32": "{name}.dll"}.get(sys.platform, shared)
    return shared.format(name=name), target.static.format(name=name)


def module_names(target: Target, name: str) -> dict[str, str]:
    """Level -> file name of its WebAssembly module, best first; empty where one library holds all levels."""
    if not target.triple.startswith("wasm32") or not target.level:
        return {}
    base = target.shared.format(name=name)
    return {**{t.level: base.replace(".wasm", f".{t.level}.wasm") for t in target.better}, target.level: base}


def host_triple() -> str:
    """zig's name of the machine that runs this Python."""
    machine = platform.machine().lower()
    arch = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    system = {"linux": "linux-gnu", "darwin": "macos", "win32": "windows-gnu"}.get(sys.platform, sys.platform)
    return f"{arch}-{system}"
