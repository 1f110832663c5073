"""out = (a <= RN_T(threshold) ? 0 : a) * b. 1.5 is a value of every dtype, 0.3 of none."""
import numpy as np

from common import rounded
from common_gated import save_gated


def fatrelu(threshold):
    def function(a, b, dtype):
        least = rounded(rounded(threshold, "f32"), dtype)
        return np.where(a <= least, 0.0, a) * b
    return function


save_gated("fatrelu_and_mul", fatrelu(0.3), {"threshold": 0.3})
for threshold, dtype in ((1.5, "bf16"), (0.0, "f16"), (-1.0, "f32"), (1e30, "f16")):
    save_gated("fatrelu_and_mul", fatrelu(threshold), {"threshold": threshold},
               "-above-%g" % threshold, dtypes=(dtype,), cases=("special",))
