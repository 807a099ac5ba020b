// The table of the kernels of one instruction set; included by kernels_*.cpp once each.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors passed between functions that are always inlined
#endif

#include "dense.h"
#include "elementwise.h"
#include "flat.h"
#include "noise.h"
#include "sparse.h"
#include "subset_sums.h"

namespace mine_fast::engine {
namespace {

constexpr Kernels kTable = {
    MINE_FAST_ISA_NAME,
    product,
    sparse_product,
    subset_sums,
    subset_product,
    subset_tables,
    first_layer,
    activate_rows,
    through_activation,
    from_output,
    first_layer_backward,
    add_noise,
    scores,
    weighted_sum,
    maximum,
    exponentials,
    nonzero_masks,
    transpose_masks,
    transpose,
    scale,
    add,
    sum_of_squares,
    adam,
};

}  // namespace
}  // namespace mine_fast::engine
