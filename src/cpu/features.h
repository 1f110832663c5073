// Instructions beyond Highway's targets, for the files that are written with intrinsics. All are
// false while a lesser instruction set than avx3 is chosen (KVOPS_CPU_ISA).
#pragma once

namespace kvops::cpu {

struct Features {
  bool bf16_dot;       // AVX512-BF16: vdpbf16ps
  bool int8_dot;       // AVX512-VNNI: vpdpbusd
  bool byte_permutes;  // AVX512-VBMI: vpermi2b
  bool amx_bf16;       // tiles; the system has given this process leave to use them
  bool amx_int8;
};

Features features();

}  // namespace kvops::cpu
