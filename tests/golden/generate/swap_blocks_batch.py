"""sizes[i] bytes from src_ptrs[i] to dst_ptrs[i], in no order."""
import numpy as np

from common import Bits, addresses, random_state, save_case

OP = "swap_blocks_batch"


def case(name, copies, any_order=0, host=False):
    """copies: (source offset, destination offset, bytes)."""
    random = random_state(OP, name)
    src_name = "host_src" if host else "memory_src"
    src, dst = (random.randint(0, 256, 4096).astype(np.uint8) for _ in range(2))
    result = dst.copy()
    for s, d, n in copies:
        result[d:d + n] = src[s:s + n]
    save_case(OP, name, {src_name: Bits("u8", src), "memory_dst": Bits("u8", dst),
                         "src_ptrs": addresses([(src_name, c[0]) for c in copies]),
                         "dst_ptrs": addresses([("memory_dst", c[1]) for c in copies]),
                         "sizes": Bits("i64", [c[2] for c in copies])},
              {"memory_dst": Bits("u8", result)}, {"is_src_access_order_any": any_order})


case("eight-bytes", [(8 * i, 4088 - 8 * i, 8) for i in range(8)])
case("neighbours", [(100 * i, 50 + 100 * i, 100) for i in range(30)])
case("mixed", [(1, 7, 1000), (2000, 1007, 0), (3000, 1500, 333), (5, 2000, 1)], 1)
case("from-host", [(0, 512, 512), (1024, 0, 512), (3000, 3001, 1000)], 1, True)
save_case(OP, "negative-size", {"src_ptrs": Bits("i64", [0, 0]), "dst_ptrs": Bits("i64", [0, 0]),
                                "sizes": Bits("i64", [0, -8])},
          status="KVOPS_INVALID_ARGUMENT",
          message="swap_blocks_batch: sizes: [1] is -8, expected at least 0")
save_case(OP, "no-address", {"src_ptrs": Bits("i64", [0, 0]), "dst_ptrs": Bits("i64", [4096, 4096]),
                             "sizes": Bits("i64", [0, 8])},
          status="KVOPS_INVALID_ARGUMENT",
          message="swap_blocks_batch: src_ptrs: [1] is 0, expected an address")
