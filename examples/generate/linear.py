# A linear layer: its matrix is packed once by libkvops, and multiplies by onednn_mm or, as int8, by
# onednn_scaled_mm.
#
#   f32    y = x W + b
#   bf16   x, W and b are rounded to bf16, sums are f32, y is rounded to bf16
#   int8   per output, W is q s with s = max|W| / 127; per row, x is quantised the same way when it
#          is multiplied (dynamic_scaled_int8_quant); sums are exact, y is f32
import weakref
from functools import partial

import kvops
import ml_dtypes
import numpy as np

WEIGHTS = ("f32", "bf16", "int8")


def quantised(matrix):
    """(int8 matrix, scale per column): matrix is about their product."""
    scales = np.maximum(np.abs(matrix).max(axis=0) / 127, 1e-20).astype(np.float32)
    return np.rint(matrix / scales).astype(np.int8), scales


class Linear:
    """matrix [inputs, outputs] and bias [outputs] or None, both f32; nothing of them is kept."""

    def __init__(self, matrix, bias, weights="f32"):
        self.weights, self.outputs = weights, matrix.shape[1]
        self.bias = bias
        number = np.zeros((), np.int64)
        if weights == "int8":
            matrix, scales = quantised(matrix)
            kvops.create_onednn_scaled_mm(weight=matrix, weight_scales=scales, handle=number,
                                          out_dtype="f32", dynamic_act_quant=1)
        else:
            if weights == "bf16":
                matrix = matrix.astype(ml_dtypes.bfloat16)
                self.bias = None if bias is None else bias.astype(ml_dtypes.bfloat16)
            kvops.create_onednn_mm(weight=matrix, handle=number)
        self.handle = int(number)
        weakref.finalize(self, kvops.release_dnnl_matmul_handler, handle=self.handle)

    def calls(self, x, out):
        """What must be called, in this order, to write the product of x to out, both f32."""
        bias = {} if self.bias is None else {"bias": self.bias}
        if self.weights == "f32":
            return [kvops.prepare("onednn_mm", input=x, out=out, handle=self.handle, **bias)]
        if self.weights == "bf16":
            narrow = [np.empty(a.shape, ml_dtypes.bfloat16) for a in (x, out)]
            return [partial(np.copyto, narrow[0], x, casting="same_kind"),
                    kvops.prepare("onednn_mm", input=narrow[0], out=narrow[1], handle=self.handle,
                                  **bias),
                    partial(np.copyto, out, narrow[1])]
        codes, scale = np.empty(x.shape, np.int8), np.empty((len(x), 1), np.float32)
        return [kvops.prepare("dynamic_scaled_int8_quant", input=x, out=codes, scale=scale),
                kvops.prepare("onednn_scaled_mm", input=codes, input_scale=scale, out=out,
                              handle=self.handle, **bias)]

    def __call__(self, x):
        out = np.empty((len(x), self.outputs), np.float32)
        for call in self.calls(x, out):
            call()
        return out
