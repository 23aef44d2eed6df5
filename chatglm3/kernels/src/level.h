// Fills the table of kernels. Included once by each level_*.cpp, after its simd_*.h and with CHATGLM3_LEVEL defined.
//
// All kernels have internal linkage: each level is compiled for other instructions, and the linker must never take
// one level's copy of a function for another's.
#pragma once

#include "attention.h"
#include "elementwise.h"
#include "kernels.h"
#include "matmul_dense.h"
#include "matmul_quantized.h"

namespace chatglm3 {
namespace {

constexpr Kernels kKernels = {
    .name = CHATGLM3_LEVEL,
    .quantize = quantize,
    .multiply_quantized = multiply_quantized,
    .multiply_dense = multiply_dense,
    .normalize = normalize,
    .swiglu = swiglu,
    .rotate = rotate,
    .widen = widen,
    .narrow = narrow,
    .attend = attend,
    .merge = merge,
    .finish = finish,
    .interleave = interleave,
    .separate = separate,
    .read_all = read_all,
    .dot_rounds = dot_rounds,
};

}  // namespace
}  // namespace chatglm3
