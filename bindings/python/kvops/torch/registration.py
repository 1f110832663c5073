# register(): vLLM's operator names in torch's dispatcher, with the library behind them.
#
# A name that torch does not know is defined; one that it knows already (a vLLM with its own kernels
# is loaded) keeps its schema, and ours takes its kernels' place. Fake kernels: the operators return
# nothing, so they have nothing to say about shapes; a plan says how many bytes it has.
import torch
from torch.library import Library

from .._library import Error
from . import attention, cache, cpu, formats, layers  # noqa: F401  they fill KERNELS
from .calls import KERNELS, kernel
from .vllm_schemas import VERSIONS, Schema, installed_ds_mla_scale, installed_schema, schemas

# What 2026-05 calls with other arguments.
_OLDER = {
    "cp_gather_and_upconvert_fp8_kv_cache": cache.upconvert_with_lengths,
    "cpu_attention_with_kv_cache": cpu.cpu_attention_with_two_windows,
}
# No tensor tells the dispatcher a device.
_ANYWHERE = ("cpu_attn_has_isa", "cpu_has_amx_fp8", "is_onednn_acl_supported",
             "release_dnnl_matmul_handler", "get_max_shared_memory_per_block_device_attribute")
_CPU_ONLY = ("swap_blocks_batch", "get_scheduler_metadata", "cpu_attn_reshape_and_cache",
             "cpu_attention_with_kv_cache", "create_onednn_mm_handler", "onednn_mm",
             "create_onednn_scaled_mm_handler", "onednn_scaled_mm")


@kernel
def get_max_shared_memory_per_block_device_attribute(device_id):
    """What vLLM's tests ask for before they choose the lengths of sequences."""
    return torch.cuda.get_device_properties(max(device_id, 0)).shared_memory_per_block_optin


_state = {"schema": None, "libraries": []}


def _nothing(*_arguments, **_keywords):
    """The fake kernel of an operator that returns nothing."""


def _fake_plan(*arguments, **keywords):
    """A plan of the size that these shapes need; of a size to be seen where they are symbols."""
    tensors, numbers = cpu.plan_arguments(*arguments, **keywords)
    reqs = tensors[0][2][0] if type(tensors[0]) is tuple else tensors[0].shape[0]
    if type(reqs) is int:
        size = cpu.plan_bytes(reqs, numbers)
    else:
        size = torch.library.get_ctx().new_dynamic_size()
    return torch.empty(size, dtype=torch.int8, device=arguments[4].device)


_FAKES = {"get_scheduler_metadata": _fake_plan}


def _known(schema):
    """The schemas under this name that torch has already."""
    try:
        return torch._C._jit_get_schemas_for_operator(f"{schema.namespace}::{schema.name}")
    except RuntimeError:
        return []


def _types(schema):
    return [str(argument.type) for argument in schema.arguments]


def _version_of(schema, known, wanted):
    """Which version's arguments the schema that is there has: ours to serve, or an Error."""
    for version in (wanted, *(v for v in VERSIONS if v != wanted)):
        text = next(s.text for s in schemas(version) if s[:2] == schema[:2])
        parsed = torch._C.parse_schema(f"{schema.namespace}::{text}")
        if _types(parsed) == _types(known):
            return version
    raise Error(f"register: {schema.namespace}::{schema.name} is there already, with arguments "
                f"that neither version has: {known}")


def _library(namespace):
    """A library that may define: "FRAGMENT" where torch knows the word, beside others' names."""
    try:
        return Library(namespace, "FRAGMENT")
    except ValueError:
        return Library(namespace, "DEF")


def _keys(name):
    if name in _ANYWHERE:
        return ("CompositeExplicitAutograd",)
    return ("CPU",) if name in _CPU_ONLY else ("CPU", "CUDA")


def _register_fake(library, schema, fake):
    """register_fake, impl_abstract before torch 2.4, the Meta key before 2.1."""
    qualified = f"{schema.namespace}::{schema.name}"
    for function in ("register_fake", "impl_abstract"):
        if hasattr(torch.library, function):
            getattr(torch.library, function)(qualified, fake, lib=library)
            return
    library.impl(schema.name, fake, "Meta")


def _define(library, text):
    tag = getattr(getattr(torch, "Tag", None), "pt2_compliant_tag", None)
    if tag is None:
        library.define(text)
    else:
        library.define(text, tags=(tag,))


def _register_one(library, schema, version):
    known = _known(schema)
    if known:
        version = _version_of(schema, known[0], version)
    else:
        _define(library, schema.text)
    function = KERNELS[schema.name]
    if version == VERSIONS[0]:
        function = _OLDER.get(schema.name, function)
    for key in _keys(schema.name):
        library.impl(schema.name, function, key)
    returns_nothing = schema.text.endswith("-> ()")
    fake = _FAKES.get(schema.name, _nothing if returns_nothing else None)
    if fake and not known and schema.name not in _ANYWHERE:
        _register_fake(library, schema, fake)


def register(schema=None, ds_mla_scale=None):
    """Registers every operator under vLLM's names, for CUDA and CPU tensors; returns the Schemas.

    schema: "2026-05" or "2026-09", whose calls differ in a few arguments; ds_mla_scale: "raw" or
    "pow2", the scales that fp8_ds_mla records get. Default: what the installed vLLM does, else
    "2026-05" and "raw". A second call may change ds_mla_scale, not the schema.
    """
    if schema not in (None, *VERSIONS):
        raise Error(f"register: schema is {schema!r}, expected {' or '.join(VERSIONS)}")
    if _state["schema"] and schema not in (None, _state["schema"]):
        raise Error(f"register: schema is {schema}, but {_state['schema']} is registered in this "
                    "process, and torch cannot change it")
    if ds_mla_scale is not None or not _state["schema"]:
        formats.set_ds_mla_scale(ds_mla_scale or installed_ds_mla_scale())
    if _state["schema"]:
        return schemas(_state["schema"])
    version = schema or installed_schema()
    libraries = {}
    for one in schemas(version):
        if one.namespace not in libraries:
            libraries[one.namespace] = _library(one.namespace)
        _register_one(libraries[one.namespace], one, version)
    _state.update(schema=version, libraries=list(libraries.values()))
    return schemas(version)


__all__ = ["Schema", "VERSIONS", "register", "schemas"]
