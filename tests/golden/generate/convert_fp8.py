"""dst = fp8(RN(src / scale)), or RN_T(RN(decode(src) * scale))."""
import numpy as np

from caches import F32, quantise, values
from common import FLOATS, Bits, decode, encode, random_state, save_case, tensor

OP = "convert_fp8"
FP8 = ("f8_e4m3", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz")

# bf16 bits -> e4m3, e5m2, e4m3fnuz at scale 0.1: codes stated in the specification.
STATED = [(0x0000, 0x00, 0x00, 0x00), (0x8000, 0x80, 0x80, 0x00), (0x3F80, 0x52, 0x49, 0x5A),
          (0xBF80, 0xD2, 0xC9, 0xDA), (0x3E9A, 0x44, 0x42, 0x4C), (0x4049, 0x60, 0x50, 0x68),
          (0xC02E, 0xDE, 0xCF, 0xE6), (0x3A83, 0x05, 0x21, 0x0A), (0x3B40, 0x0F, 0x28, 0x17),
          (0x3F88, 0x53, 0x49, 0x5B), (0x3F98, 0x54, 0x4A, 0x5C), (0x42C8, 0x7E, 0x64, 0x7F),
          (0x7F80, 0x7E, 0x7B, 0x80), (0xFF80, 0xFE, 0xFB, 0x80), (0x7FC0, 0x7F, 0x7F, 0x80)]
# Values -> e4m3 at scale 1: ties, half the smallest subnormal, saturation.
STATED_1 = [(1.0625, 0x38), (1.1875, 0x3A), (0.0009765625, 0x00), (464.0, 0x7E)]


def case(name, src, dst, scale):
    save_case(OP, name, {"src": src}, {"dst": dst}, {"scale": float(scale)})


for i, dtype in enumerate(FP8[:3]):
    case("stated-" + dtype[3:], Bits("bf16", [s[0] for s in STATED]),
         Bits(dtype, [s[1 + i] for s in STATED]), 0.1)
case("stated-scale-1", tensor("bf16", [s[0] for s in STATED_1] + [0.00099945068359375]),
     Bits("f8_e4m3", [s[1] for s in STATED_1] + [0x01]), 1)

SCALES = {"f32": 1 / 3, "f16": 7 / 128, "bf16": 0.1}
for wide, scale in SCALES.items():
    for narrow in FP8:
        random = random_state(OP, wide, narrow)
        x = values(random, (3, 2, 37), wide)
        case("%s-%s" % (wide, narrow[3:]), tensor(wide, x),
             Bits(narrow, quantise(x, scale, narrow)), scale)
        codes = np.arange(256).reshape(4, 2, 32)
        with np.errstate(all="ignore"):
            product = decode(codes, narrow).astype(F32) * F32(scale)
        case("%s-%s" % (narrow[3:], wide), Bits(narrow, codes),
             Bits(wide, encode(product.astype(np.float64), wide)), scale)
case("scalar", tensor("f32", np.array(1.0)), Bits("f8_e4m3", np.array(0x38)), 1)
