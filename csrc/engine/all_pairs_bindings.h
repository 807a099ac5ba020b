// `_engine.all_pairs`: the loss of all pairs of a batch and its gradient, without state.
#pragma once

#include <pybind11/pybind11.h>

namespace mine_fast::engine {

void bind_all_pairs(pybind11::module_& m);

}  // namespace mine_fast::engine
