"""The operators under vLLM's names in PyTorch: torch.ops._C.*, torch.ops._C_cache_ops.*

    import kvops.torch
    kvops.torch.register()
    torch.ops._C.rms_norm(out, x, weight, 1e-6)

The schemas, mutation marks and kv_cache_dtype strings are vLLM's; the work is libkvops', on the
current stream of the tensors' device. Nothing is compiled. docs/torch.md says the rest.
"""
from .registration import VERSIONS, Schema, register, schemas

__all__ = ["Schema", "VERSIONS", "register", "schemas"]
