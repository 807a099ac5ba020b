// The kernels with 4-lane vectors for whatever the compiler's target is (SSE2, NEON).
#define MINE_FAST_ISA 0
#define MINE_FAST_ISA_NAME "portable"

#include "kernel_table.h"

namespace mine_fast::engine {

const Kernels& portable_kernels() { return kTable; }

}  // namespace mine_fast::engine
