#pragma once

#include "kernels.h"

namespace chatglm3 {

// The level of this name, or the best for an empty one. Null where this processor does not have it.
const Kernels* find_level(const char* name);

}  // namespace chatglm3
