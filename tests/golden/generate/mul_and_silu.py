"""out = a * RN_T(silu(b)), a and b being the halves of a row."""
from common import rounded
from common_gated import save_gated, silu

save_gated("mul_and_silu", lambda a, b, dtype: a * rounded(silu(b), dtype))
