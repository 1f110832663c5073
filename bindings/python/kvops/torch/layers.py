# vLLM's norms, rotary embedding, activations and int8 quantisation as calls of the library. Each
# function has its schema's name and arguments.
from .calls import KERNELS, Call, kernel, one, unit_stride

_rms_norm = Call("rms_norm")
_fused_add_rms_norm = Call("fused_add_rms_norm")
_rotary_embedding = Call("rotary_embedding")
_fatrelu_and_mul = Call("fatrelu_and_mul")
_swigluoai_and_mul = Call("swigluoai_and_mul")
_silu_and_mul_with_clamp = Call("silu_and_mul_with_clamp")
_static_int8 = Call("static_scaled_int8_quant")
_dynamic_int8 = Call("dynamic_scaled_int8_quant")


@kernel
def rms_norm(result, input, weight, epsilon):
    _rms_norm((unit_stride(input), weight, result), (epsilon,))


@kernel
def fused_add_rms_norm(input, residual, weight, epsilon):
    _fused_add_rms_norm((input, residual, weight), (epsilon,))


@kernel
def rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox, rope_dim_offset=0,
                     inverse=False):
    _rotary_embedding((positions, query, key, cos_sin_cache, None),
                      (head_size, rope_dim_offset, is_neox, inverse))


def _gated(name):
    call = Call(name)

    def function(out, input):
        call((input, out))

    KERNELS[name] = function


for _name in ("silu_and_mul", "mul_and_silu", "gelu_and_mul", "gelu_tanh_and_mul"):
    _gated(_name)


@kernel
def fatrelu_and_mul(out, input, threshold):
    _fatrelu_and_mul((input, out), (threshold,))


@kernel
def swigluoai_and_mul(out, input, alpha=1.702, limit=7.0):
    _swigluoai_and_mul((input, out), (alpha, limit))


@kernel
def silu_and_mul_with_clamp(result, input, limit, alpha=1.0, beta=0.0):
    _silu_and_mul_with_clamp((input, result), (limit, alpha, beta))


def _rows(tensor):
    """Scales and zero points are one per row, [rows, 1], whatever the rank of what they belong to.
    """
    return tensor if tensor.dim() == 2 else tensor.view(-1, tensor.shape[-1])


@kernel
def static_scaled_int8_quant(result, input, scale, azp):
    _static_int8((_rows(input), one(scale), one(azp), _rows(result)))


@kernel
def dynamic_scaled_int8_quant(result, input, scale, azp):
    _dynamic_int8((_rows(input), _rows(result), scale, azp))
