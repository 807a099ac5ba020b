// Turning the weights of a step, once for all of its tiles.
#include "prepared_weights.h"

namespace mine_fast::engine {

namespace {
// Floats of tables that are made once for a step; larger ones would leave the second-level cache, and each tile makes
// its own, a first-level cache full at a time.
constexpr int64_t kTablesKept = int64_t{1} << 16;
}  // namespace

PreparedWeights::PreparedWeights(const Network& network, const Kernels& kernels, bool backward)
    : network_(network), kernels_(kernels), transposed_(network.transposed) {
  if (!backward || !Tile::last_rows_unscaled(network)) return;
  const int64_t size = subset_table_size(network.last().width, network.last().in);
  if (size <= kTablesKept) tables_.resize(size);
}

StepWeights PreparedWeights::of(const float* parameters) {
  for (size_t l = 1; l < network_.layers.size(); ++l) {
    const HiddenLayer& layer = network_.layers[l];
    kernels_.transpose(parameters + layer.parameters, layer.in_stride, layer.width, layer.in + 1,
                       transposed_.data() + layer.transposed, layer.stride);
  }
  const HiddenLayer& last = network_.last();
  if (tables_.size() > 0)
    kernels_.subset_tables(parameters + last.parameters, last.in_stride, parameters + network_.output, last.width,
                           last.in, tables_.data());
  return {parameters, transposed_.data(), tables_.data()};
}

}  // namespace mine_fast::engine
