"""paged_attention_v2 is paged_attention_v1 by another name: cases of every kind, same reference.

tests/ops/attention.cpp compares the two bit for bit, over all options.
"""
from paged_attention_v1 import case as case_of_v1


def case(name, *arguments, **options):
    case_of_v1(name, *arguments, op="paged_attention_v2", **options)


case("plain", "bf16", size=64, kv_heads=1)
case("partitions", "f16", heads=2, kv_heads=1, lens=(1100, 513, 512), lse=True)
case("options", "f32", alibi=True, sinks=True, lse=True, softcap=2.0, window=19)
case("f8", "bf16", "f8_e4m3", lens=(1, 23, 0), k_scale=0.37, v_scale=1.7)
case("max-seq-len", "f32", lens=(41, 40, 3), max_seq_len=1000, faults=0)
case("bad-blocks", "f32", lens=(40, 50), bad=((0, 0, -1), (1, 1, 11)), lse=True, faults=2)
case("sparse", "f32", block=4, lens=(0, 1, 9, 37), blocksparse_block_size=8, tp_rank=1,
     blocksparse_vert_stride=3, blocksparse_local_blocks=1, blocksparse_head_sliding_step=-1,
     lse=True)
