# vLLM's norms, rotary embedding, activations and int8 quantisation as calls of the library. Each
# function has its schema's name and arguments.
from .calls import KERNELS, Call, form, kernel, one, unit_stride

_rms_norm = form("rms_norm", "input weight out")
_rms_norm_alone = form("rms_norm", "input out")
_fused_add_rms_norm = form("fused_add_rms_norm", "input residual weight")
_fused_add_rms_norm_alone = form("fused_add_rms_norm", "input residual")
_rotary_embedding = form("rotary_embedding", "positions query key cos_sin_cache")
_rotary_embedding_alone = form("rotary_embedding", "positions query cos_sin_cache")
_static_int8 = Call("static_scaled_int8_quant")
_dynamic_int8 = Call("dynamic_scaled_int8_quant")


@kernel
def rms_norm(result, input, weight, epsilon):
    input = unit_stride(input)
    if weight is None:
        _rms_norm_alone((input, result), (epsilon,))
    else:
        _rms_norm((input, weight, result), (epsilon,))


@kernel
def fused_add_rms_norm(input, residual, weight, epsilon):
    if weight is None:
        _fused_add_rms_norm_alone((input, residual), (epsilon,))
    else:
        _fused_add_rms_norm((input, residual, weight), (epsilon,))


@kernel
def rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox, rope_dim_offset=0,
                     inverse=False):
    numbers = head_size, rope_dim_offset, is_neox, inverse
    if key is None:
        _rotary_embedding_alone((positions, query, cos_sin_cache), numbers)
    else:
        _rotary_embedding((positions, query, key, cos_sin_cache), numbers)


def _gated(name):
    call = form(name, "input out")

    def function(out, input, *numbers):
        call((input, out), numbers)

    return function


for _name in ("silu_and_mul", "mul_and_silu", "gelu_and_mul", "gelu_tanh_and_mul",
              "fatrelu_and_mul"):
    KERNELS[_name] = _gated(_name)
_swigluoai_and_mul = _gated("swigluoai_and_mul")
_silu_and_mul_with_clamp = _gated("silu_and_mul_with_clamp")


@kernel
def swigluoai_and_mul(out, input, alpha=1.702, limit=7.0):
    _swigluoai_and_mul(out, input, alpha, limit)


@kernel
def silu_and_mul_with_clamp(result, input, limit, alpha=1.0, beta=0.0):
    _silu_and_mul_with_clamp(result, input, limit, alpha, beta)


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
