// The kernels compiled for avx2; build.py has the compiler's flags.
#define CHATGLM3_LEVEL "avx2"
#include "simd_avx2.h"
// The level's registers come first.
#include "level.h"

namespace chatglm3 {
const Kernels* kernels_avx2() { return &kKernels; }
}  // namespace chatglm3
