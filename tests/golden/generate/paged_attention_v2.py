"""paged_attention_v2 is paged_attention_v1 by another name: a few cases, same reference.

tests/ops/attention.cpp compares the two bit for bit, over all options.
"""
from paged_attention_v1 import case as case_of_v1


def case(name, *arguments, **options):
    case_of_v1(name, *arguments, op="paged_attention_v2", **options)


case("plain", "bf16", size=64, kv_heads=1)
case("partitions", "f16", heads=2, kv_heads=1, lens=(1100, 513, 512), lse=True)
case("options", "f32", alibi=True, sinks=True, lse=True, softcap=2.0, window=19)
