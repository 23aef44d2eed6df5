// The kernels compiled for avx512vnni; build.py has the compiler's flags.
#define CHATGLM3_LEVEL "avx512vnni"
#include "simd_avx512.h"
// The level's registers come first.
#include "level.h"

namespace chatglm3 {
const Kernels* kernels_avx512vnni() { return &kKernels; }
}  // namespace chatglm3
