// vLLM's names of cache formats.
#include "kvcache_ops/cache_format.h"

#include <cstring>

#include "core/error.h"
#include "kvcache_ops/device.h"

using namespace kvops;

extern "C" kvops_status kvops_parse_kv_cache_dtype(const char* name, kvops_dtype model_dtype,
                                                   kvops_device device, kvops_dtype* cache_dtype,
                                                   int64_t* format) {
  constexpr kvops_dtype kModel = -1, kE4m3 = -2;  // the dtype of the model, the e4m3 of the device
  static const struct {
    const char* name;
    kvops_dtype dtype;
    int64_t format;
  } table[] = {
      {"auto", kModel, KVOPS_FORMAT_PLAIN},
      {"float16", KVOPS_F16, KVOPS_FORMAT_PLAIN},
      {"bfloat16", KVOPS_BF16, KVOPS_FORMAT_PLAIN},
      {"fp8", kE4m3, KVOPS_FORMAT_PLAIN},
      {"fp8_e4m3", kE4m3, KVOPS_FORMAT_PLAIN},
      {"fp8_e5m2", KVOPS_F8_E5M2, KVOPS_FORMAT_PLAIN},
      {"nvfp4", KVOPS_U8, KVOPS_FORMAT_NVFP4},
      {"nvfp4_4over6", KVOPS_U8, KVOPS_FORMAT_NVFP4_4OVER6},
      {"fp8_ds_mla", KVOPS_U8, KVOPS_FORMAT_FP8_DS_MLA},
      {"nvfp4_ds_mla", KVOPS_U8, KVOPS_FORMAT_NVFP4_DS_MLA},
  };
  constexpr auto* f = "kvops_parse_kv_cache_dtype";
  if (!name || !cache_dtype || !format)
    return fail(KVOPS_INVALID_ARGUMENT, f,
                !name          ? "name"
                : !cache_dtype ? "cache_dtype"
                               : "format",
                "is NULL");
  for (auto& t : table) {
    if (std::strcmp(t.name, name) != 0) continue;
    kvops_device_info info = {};
    info.struct_size = sizeof info;
    if (t.dtype == kE4m3)
      if (auto s = kvops_get_device_info(device, &info)) return s;
    *cache_dtype = t.dtype == kModel  ? model_dtype
                   : t.dtype == kE4m3 ? kvops_dtype(info.fp8_e4m3)
                                      : t.dtype;
    *format = t.format;
    return KVOPS_OK;
  }
  return fail(KVOPS_UNSUPPORTED, f, "name", "is \"%s\", which no operator here implements", name);
}
