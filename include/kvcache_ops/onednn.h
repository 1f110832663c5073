// SPDX-License-Identifier: Apache-2.0
// Which oneDNN multiplies for onednn_mm and onednn_scaled_mm; see cpu.h.
#ifndef KVCACHE_OPS_ONEDNN_H_
#define KVCACHE_OPS_ONEDNN_H_

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

// The library is looked for when it is first needed: the path in KVOPS_ONEDNN (or
// kvops_set_option("onednn", path); "off": none), else libdnnl.so.3 beside this library, in the
// Python environment that its wheel is installed in, in the system. Version 3 is accepted.
//
// "3.2.0 /usr/lib/libdnnl.so.3"; or "none: " and the reason. Never freed.
KVOPS_API const char* kvops_onednn_library(void);

#ifdef __cplusplus
}
#endif

#endif  // KVCACHE_OPS_ONEDNN_H_
