"""Numbers from codes of 8 and 4 bits, in registers.

For bfloat16, assembly makes them of bits: a code is moved to its place in a number whose other bits are known, or
tables of bytes are read by permutations of bytes. Other dtypes are converted plainly.
"""

import torch
import triton
import triton.language as tl

from mossvl.quantization.nf4 import CODES


def _bits(value: float) -> int:
    """The bits of a float32."""
    return int(torch.tensor(value).view(torch.int32)) & 0xFFFFFFFF


NF4_HALVES = [_bits(float(torch.tensor(code).bfloat16())) >> 16 for code in CODES]
NF4_HIGH, NF4_LOW = [half >> 8 for half in NF4_HALVES], [half & 0xFF for half in NF4_HALVES]
"""The upper and lower bytes of the codes' numbers as bfloat16."""


def _quarters(table: list[int]) -> list[str]:
    """A table of 16 bytes as four 32-bit numbers."""
    return [f"{int.from_bytes(bytes(table[start : start + 4]), 'little'):#010x}" for start in range(0, 16, 4)]


def _lookup(result: str, table: list[int]) -> list[str]:
    """Look up four codes in a table of 16 bytes: s has their low three bits, t selects by the highest."""
    first, second, third, fourth = _quarters(table)
    return [
        f"mov.b32 a, {first}; prmt.b32 a, a, {second}, s;",
        f"mov.b32 b, {third}; prmt.b32 b, b, {fourth}, s;",
        f"prmt.b32 {result}, a, b, t;",
    ]


def _fp8_pairs() -> str:
    """PTX: of four e4m3, $2, the bfloat16 pairs $0 and $1.

    Exponent and mantissa move to their places in a bfloat16, which is then 2⁻¹²⁰ of the number, also if subnormal.
    """
    lines = [".reg .b32 p, q, factor, zero;", "mov.b32 factor, 0x7B807B80; mov.b32 zero, 0x80008000;"]
    for pair, selected in enumerate(("0x1404", "0x3424")):
        lines += [
            f"prmt.b32 p, $2, 0, {selected}; shr.b32 q, p, 4; and.b32 q, q, 0x07F007F0;",
            "lop3.b32 q, p, 0x80008000, q, 0xEA;",
            f"fma.rn.bf16x2 ${pair}, q, factor, zero;",
        ]
    return "{ " + " ".join(lines) + " }"


def _fp8_numbers() -> str:
    """PTX: the four float32 of an int32 of e4m3, $4."""
    lines = [".reg .b16 l, h, a, b; .reg .b32 p; .reg .f32 f;", "mov.b32 {l, h}, $4;"]
    for pair, half in enumerate("lh"):
        lines.append(f"cvt.rn.f16x2.e4m3x2 p, {half}; mov.b32 {{a, b}}, p;")
        lines += [f"cvt.f32.f16 f, {one}; mov.b32 ${2 * pair + j}, f;" for j, one in enumerate("ab")]
    return "{ " + " ".join(lines) + " }"


def _int4_numbers() -> str:
    """PTX: the eight float32 of an int32 of INT4, $8.

    A code becomes bits of the mantissa of a power of two, from which that and 8 are subtracted.
    """
    lines = [".reg .b32 t, u;", ".reg .f32 f;", "shr.b32 t, $8, 12;"]
    for j in range(8):
        word, place = ("$8", j) if j < 5 else ("t", j - 3)
        power = 2.0 ** (23 - 4 * place)
        lines += [
            f"lop3.b32 u, {word}, {0xF << 4 * place:#x}, {_bits(power):#x}, 0xEA;",
            f"mov.b32 f, u; add.f32 f, f, 0f{_bits(-power - 8):08X}; mov.b32 ${j}, f;",
        ]
    return "{ " + " ".join(lines) + " }"


def _int4_pairs() -> str:
    """PTX: of the codes of two int32 of INT4, $8 and $9, pairs of bfloat16 with the j-th of each, $0 to $7."""
    lines = [".reg .b32 l, h, t, one, less;", "mov.b32 one, 0x3F803F80; mov.b32 less, 0xC308C308;"]
    lines += ["prmt.b32 l, $8, $9, 0x5410;", "prmt.b32 h, $8, $9, 0x7632;"]
    for j in range(8):
        half, place = "lh"[j // 4], j % 4
        lines += [
            f"shr.b32 t, {half}, {4 * place};",
            "lop3.b32 t, t, 0x000F000F, 0x43004300, 0xEA;",  # 128 + code
            f"fma.rn.bf16x2 ${j}, t, one, less;",
        ]
    return "{ " + " ".join(lines) + " }"


def _nf4_numbers() -> str:
    """PTX: the eight float32 of an int32 of NF4, $8, each the bfloat16 that is nearest to the code's number."""
    lines = [".reg .b32 s, t, u, a, b, x, y;"]
    for quad in range(2):
        lines.append(f"shr.b32 u, $8, {16 * quad};")
        lines += ["and.b32 s, u, 0x7777;", "shr.b32 t, u, 1; lop3.b32 t, t, 0x4444, 0x3210, 0xEA;"]
        lines += _lookup("x", NF4_HIGH) + _lookup("y", NF4_LOW)
        for pair, selected in enumerate(("0x1504", "0x3726")):
            even, odd = 4 * quad + 2 * pair + 1, 4 * quad + 2 * pair
            lines.append(f"prmt.b32 u, x, y, {selected}; shl.b32 ${even}, u, 16; and.b32 ${odd}, u, 0xFFFF0000;")
    return "{ " + " ".join(lines) + " }"


def _nf4_pairs() -> str:
    """PTX: of the codes of two int32 of NF4, $8 and $9, pairs of bfloat16 with the j-th of each, $0 to $7."""
    lines = [".reg .b32 l, h, e, f, g, s, t, u, v, a, b, x, y;"]
    lines += ["prmt.b32 l, $8, $9, 0x5410;", "prmt.b32 h, $8, $9, 0x7632;"]
    for number, half in enumerate("lh"):
        lines += [
            # Nibbles of the two words in turn; the codes of even places are in the high half of a byte.
            f"shr.b32 u, {half}, 16; shl.b32 v, u, 4; and.b32 v, v, 0xF0F0; lop3.b32 e, {half}, 0x0F0F, v, 0xEA;",
            f"and.b32 u, u, 0xF0F0; shr.b32 g, {half}, 4; lop3.b32 f, g, 0x0F0F, u, 0xEA;",
            "prmt.b32 g, f, e, 0x5410; and.b32 s, g, 0x77777777;",
            "shr.b32 t, g, 1; lop3.b32 t, t, 0x44444444, 0x32103210, 0xEA;",
        ]
        for odd in range(2):
            if odd:
                lines.append("shr.b32 s, s, 16; shr.b32 t, t, 16;")
            lines += _lookup("x", NF4_HIGH) + _lookup("y", NF4_LOW)
            j = 4 * number + odd
            lines += [f"prmt.b32 ${j}, x, y, 0x1504;", f"prmt.b32 ${j + 2}, x, y, 0x3726;"]
    return "{ " + " ".join(lines) + " }"


FP8_NUMBERS = tl.constexpr(_fp8_numbers())
FP8_PAIRS = tl.constexpr(_fp8_pairs())
INT4_NUMBERS = tl.constexpr(_int4_numbers())
INT4_PAIRS = tl.constexpr(_int4_pairs())
NF4_NUMBERS = tl.constexpr(_nf4_numbers())
NF4_PAIRS = tl.constexpr(_nf4_pairs())
EIGHT = tl.constexpr(",".join(["=&r"] * 8))


@triton.jit
def converted(block, dtype: tl.constexpr):
    """Weights in a dtype; those in FP8 to bfloat16 by assembly."""
    if block.dtype == tl.float8e4nv and dtype == tl.bfloat16:
        result = tl.inline_asm_elementwise(FP8_PAIRS, "=&r,=&r,r", [block], tl.bfloat16, True, 4)
    else:
        result = block.to(dtype)
    return result


@triton.jit
def _number(words, j: tl.constexpr, KIND: tl.constexpr, table, dtype: tl.constexpr):
    if KIND == "int4":
        result = ((words >> (4 * j)) & 15) - 8
    else:
        result = tl.load(table + ((words >> (4 * (j ^ 1))) & 15))
    return result.to(dtype)


@triton.jit
def eight_numbers(words, KIND: tl.constexpr, table, dtype: tl.constexpr, ASSEMBLY: tl.constexpr):
    """The numbers of the eight codes of each word: eight tensors of the words' shape, of float32 or bfloat16."""
    if ASSEMBLY and dtype == tl.float32:
        numbers: tl.constexpr = INT4_NUMBERS if KIND == "int4" else NF4_NUMBERS
        result = tl.inline_asm_elementwise(numbers, EIGHT + ",r", [words], (tl.float32,) * 8, True, 1)
    elif ASSEMBLY:
        pairs: tl.constexpr = INT4_PAIRS if KIND == "int4" else NF4_PAIRS
        result = tl.inline_asm_elementwise(pairs, EIGHT + ",r,r", [words], (tl.bfloat16,) * 8, True, 2)
    else:
        result = (
            _number(words, 0, KIND, table, dtype),
            _number(words, 1, KIND, table, dtype),
            _number(words, 2, KIND, table, dtype),
            _number(words, 3, KIND, table, dtype),
            _number(words, 4, KIND, table, dtype),
            _number(words, 5, KIND, table, dtype),
            _number(words, 6, KIND, table, dtype),
            _number(words, 7, KIND, table, dtype),
        )
    return result


@triton.jit
def _fp8_number(words, j: tl.constexpr):
    return ((words >> (8 * j)) & 255).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float32)


@triton.jit
def four_numbers(words, ASSEMBLY: tl.constexpr):
    """The numbers of the four codes of FP8 of each word: four float32 tensors of the words' shape."""
    if ASSEMBLY:
        result = tl.inline_asm_elementwise(FP8_NUMBERS, "=&r,=&r,=&r,=&r,r", [words], (tl.float32,) * 4, True, 1)
    else:
        result = _fp8_number(words, 0), _fp8_number(words, 1), _fp8_number(words, 2), _fp8_number(words, 3)
    return result


@triton.jit
def quarters(row, WIDTH: tl.constexpr):
    """Of (WIDTH, 4), the four columns."""
    even, odd = tl.split(tl.reshape(row, (WIDTH, 2, 2)))
    zero, two = tl.split(even)
    one, three = tl.split(odd)
    return zero, one, two, three


@triton.jit
def eighths(row, WIDTH: tl.constexpr):
    """Of (WIDTH, 8), the eight columns."""
    even, odd = tl.split(tl.reshape(row, (WIDTH, 4, 2)))
    first, second = tl.split(tl.reshape(even, (WIDTH, 2, 2)))
    third, fourth = tl.split(tl.reshape(odd, (WIDTH, 2, 2)))
    zero, four = tl.split(first)
    two, six = tl.split(second)
    one, five = tl.split(third)
    three, seven = tl.split(fourth)
    return zero, one, two, three, four, five, six, seven
