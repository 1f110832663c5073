"""For i in order: block block_mapping[i][1] of dst = block block_mapping[i][0] of src, as bytes."""
import numpy as np

from common import Bits, random_state, same_as, save_case

OP = "swap_blocks"


def case(name, dtype, src_shape, dst_shape, pairs, block_bytes, in_place=False):
    random = random_state(OP, name)
    width = {"bf16": 2, "f32": 4, "u8": 1, "i64": 8}[dtype]

    def bits(shape):
        return Bits(dtype, random.randint(0, 256, shape + (width,)).astype(np.uint8)
                    .view("<u%d" % width)[..., 0])
    src, dst = bits(src_shape), bits(dst_shape)
    result = dst.array.copy()
    to = result.reshape(-1).view(np.uint8)
    source = to if in_place else src.array.reshape(-1).view(np.uint8)
    for a, b in pairs:
        block = source[a * block_bytes:(a + 1) * block_bytes].copy()
        to[b * block_bytes:(b + 1) * block_bytes] = block
    inputs = {"src": same_as("dst") if in_place else src, "dst": dst,
              "block_mapping": Bits("i64", np.array(pairs, np.int64).reshape(-1, 2))}
    save_case(OP, name, inputs, {"dst": Bits(dtype, result)}, {"block_size_in_bytes": block_bytes})


def bad(name, pairs, message, src_blocks=8, dst_blocks=6):
    save_case(OP, name, {"src": Bits("u8", np.zeros((src_blocks, 24))),
                         "dst": Bits("u8", np.ones((dst_blocks, 24))),
                         "block_mapping": Bits("i64", pairs)},
              scalars={"block_size_in_bytes": 24}, status="KVOPS_INVALID_ARGUMENT", message=message)


case("two-tensors", "bf16", (8, 2, 3, 5), (6, 2, 3, 5),
     [(0, 5), (7, 0), (3, 3), (4, 4), (1, 2)], 60)
case("neighbours", "f32", (9, 4), (9, 4), [(i, i) for i in range(9)], 16)
case("last-wins", "u8", (6, 10), (6, 10), [(0, 3), (1, 3), (5, 3), (2, 4)], 10)
case("chain", "bf16", (8, 7), (8, 7), [(0, 1), (1, 2), (2, 3), (3, 4), (7, 7), (4, 0)], 14, True)
case("descending", "u8", (8, 9), (8, 9), [(6, 7), (5, 6), (4, 5), (3, 4)], 9, True)
case("part-of-rows", "i64", (8, 4), (8, 4), [(0, 15), (15, 0), (3, 9)], 16)
bad("beyond-src", [(0, 0), (8, 1)], "swap_blocks: block_mapping: [1, 0] is 8, expected 0 to 7")
bad("beyond-dst", [(0, 6)], "swap_blocks: block_mapping: [0, 1] is 6, expected 0 to 5")
bad("negative", [(1, 1), (2, 2), (3, -1)],
    "swap_blocks: block_mapping: [2, 1] is -1, expected 0 to 5")
