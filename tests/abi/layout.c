/* Prints size and members of every public struct: what must never change for old callers. The
   structs of operators come from kvops_ops(), which the compiler holds against the headers. */
#include <stdio.h>

#include "kvcache_ops.h"

#define STRUCT(s) printf("%s %u\n", #s, (unsigned)sizeof(s))
#define MEMBER(s, m) \
  printf("  %s %u %u\n", #m, (unsigned)offsetof(s, m), (unsigned)sizeof(((s*)0)->m))

static void print_ops(void) {
  static const char* const kinds[] = {"", "tensor", "real", "int"};
  size_t count, i, j;
  const kvops_op_info* const* ops = kvops_ops(&count);
  for (i = 0; i < count; ++i) {
    printf("kvops_%s_args %u\n", ops[i]->name, (unsigned)ops[i]->args_size);
    for (j = 0; j < ops[i]->num_args; ++j) {
      const kvops_arg_info* a = ops[i]->args[j];
      printf("  %s %u %s\n", a->name, (unsigned)a->offset, kinds[a->kind]);
    }
  }
}

static void print_descriptions(void) {
  STRUCT(kvops_arg_info);
  MEMBER(kvops_arg_info, name);
  MEMBER(kvops_arg_info, offset);
  MEMBER(kvops_arg_info, kind);
  MEMBER(kvops_arg_info, flags);
  MEMBER(kvops_arg_info, values);
  MEMBER(kvops_arg_info, type);
  MEMBER(kvops_arg_info, shape);
  MEMBER(kvops_arg_info, compare);
  MEMBER(kvops_arg_info, tolerance_f32);
  MEMBER(kvops_arg_info, tolerance_narrow);
  STRUCT(kvops_op_info);
  MEMBER(kvops_op_info, name);
  MEMBER(kvops_op_info, args_size);
  MEMBER(kvops_op_info, num_args);
  MEMBER(kvops_op_info, args);
  MEMBER(kvops_op_info, num_rules);
  MEMBER(kvops_op_info, rules);
  MEMBER(kvops_op_info, backends);
}

int main(void) {
  STRUCT(kvops_device);
  MEMBER(kvops_device, type);
  MEMBER(kvops_device, index);
  STRUCT(kvops_tensor);
  MEMBER(kvops_tensor, data);
  MEMBER(kvops_tensor, device);
  MEMBER(kvops_tensor, dtype);
  MEMBER(kvops_tensor, rank);
  MEMBER(kvops_tensor, shape);
  MEMBER(kvops_tensor, stride);
  MEMBER(kvops_tensor, stream);
  STRUCT(kvops_error);
  MEMBER(kvops_error, struct_size);
  MEMBER(kvops_error, op);
  MEMBER(kvops_error, argument);
  MEMBER(kvops_error, message);
  MEMBER(kvops_error, element);
  MEMBER(kvops_error, status);
  STRUCT(kvops_query_result);
  MEMBER(kvops_query_result, struct_size);
  MEMBER(kvops_query_result, bytes);
  MEMBER(kvops_query_result, implementation);
  MEMBER(kvops_query_result, graph_safe);
  MEMBER(kvops_query_result, deterministic);
  STRUCT(kvops_device_info);
  MEMBER(kvops_device_info, struct_size);
  MEMBER(kvops_device_info, name);
  MEMBER(kvops_device_info, arch);
  MEMBER(kvops_device_info, memory_bytes);
  MEMBER(kvops_device_info, cache_bytes);
  MEMBER(kvops_device_info, compute_units);
  MEMBER(kvops_device_info, warp_size);
  MEMBER(kvops_device_info, fp8_e4m3);
  print_descriptions();
  print_ops();
  return 0;
}
