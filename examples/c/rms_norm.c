/* Normalises two rows on the CPU, then makes a mistake to show what the library says.
 *   cc rms_norm.c $(pkg-config --cflags --libs kvops) && ./a.out */
#include <kvcache_ops.h>
#include <stdio.h>

int main(void) {
  float x[2][4] = {{1, 2, 3, 4}, {-1, 0, 1, 0}}, w[4] = {1, 1, 2, 2}, y[2][4];
  int64_t shape[2] = {2, 4}, three = 3;
  kvops_device cpu = {KVOPS_CPU, 0};
  kvops_rms_norm_args args = {.struct_size = sizeof args, .epsilon = 1e-6};
  args.input = kvops_dense(x, cpu, NULL, KVOPS_F32, 2, shape);
  args.weight = kvops_dense(w, cpu, NULL, KVOPS_F32, 1, shape + 1);
  args.out = kvops_dense(y, cpu, NULL, KVOPS_F32, 2, shape);
  if (kvops_rms_norm(&args) != KVOPS_OK) {
    fprintf(stderr, "%s\n", kvops_last_error());
    return 1;
  }
  for (int i = 0; i < 2; ++i)
    printf("%8.4f %8.4f %8.4f %8.4f\n", y[i][0], y[i][1], y[i][2], y[i][3]);

  args.weight = kvops_dense(w, cpu, NULL, KVOPS_F32, 1, &three);
  if (kvops_rms_norm(&args) == KVOPS_OK) return 1;
  printf("%s\n", kvops_last_error());
  return 0;
}
