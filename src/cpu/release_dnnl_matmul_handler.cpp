// release_dnnl_matmul_handler: forgets a number; a weight goes with the last product that uses it.
#include "cpu/matmul.h"
#include "kvcache_ops.h"

namespace kvops::cpu {

kvops_status release_dnnl_matmul_handler(const kvops_release_dnnl_matmul_handler_args& a) {
  return a.handle ? release_weight("release_dnnl_matmul_handler", a.handle) : KVOPS_OK;
}

}  // namespace kvops::cpu
