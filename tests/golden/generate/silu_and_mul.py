"""out = RN_T(silu(a)) * b, a and b being the halves of a row."""
from common import rounded
from common_gated import save_gated, silu

save_gated("silu_and_mul", lambda a, b, dtype: rounded(silu(a), dtype) * b)
