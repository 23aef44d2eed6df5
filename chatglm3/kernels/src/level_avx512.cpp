// The kernels compiled for avx512; build.py has the compiler's flags.
#define CHATGLM3_LEVEL "avx512"
#include "simd_avx512.h"
// The level's registers come first.
#include "level.h"

namespace chatglm3 {
const Kernels* kernels_avx512() { return &kKernels; }
}  // namespace chatglm3
