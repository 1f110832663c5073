"""Row-wise top-k by sorting whole rows, shared by the prefill and the decode generator."""
import numpy as np

from common import Bits, FLOATS, decode, encode

ORDERS = {"unordered": 0, "by_value": 1, "by_index": 2}


def ranks(bits):
    """One integer per logit, in the order of the values: NaN above +inf, +0 above -0."""
    x = decode(bits, "f32")
    rank = np.where(bits >> 31 == 1, -(bits.astype(np.int64) & 0x7FFFFFFF) - 1, bits)
    return np.where(np.isnan(x), 1 << 32, rank)


def top_k(bits, begin, end, k, order):
    """Positions of the k largest of bits[begin:end], -1 after them."""
    columns = len(bits)
    begin = min(max(int(begin), 0), columns)
    rank = ranks(bits[begin:min(int(end), columns)]) if end > begin else np.zeros(0, np.int64)
    position = np.arange(len(rank))
    best = np.lexsort((-position if order == "by_value" else position, -rank))[:k]
    row = np.full(k, -1)
    row[:len(best)] = best if order == "by_value" else np.sort(best)
    return row


def logits(random, rows, columns, kind):
    """Bit patterns: normal numbers, few distinct ones, or what is special about floats."""
    if kind == "special":
        codes = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0,
                 0x80000000, 1, 0x80000001, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000]
        return random.choice(np.array(codes, np.uint32), (rows, columns))
    if kind == "low-bits":  # the same but for the last ten bits
        return (0x3F900000 | random.randint(0, 1024, (rows, columns))).astype(np.uint32)
    values = random.standard_normal((rows, columns))
    return encode(np.rint(2 * values) if kind == "few" else values, "f32")


def f32_bits(bits):
    assert FLOATS["f32"].storage == bits.dtype
    return Bits("f32", bits)
