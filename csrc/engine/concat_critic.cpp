// Which step trains the critic, and scores without a gradient: the first layer's share of y once for all of its pairs.
#include "concat_critic.h"

#include <algorithm>
#include <vector>

#include "all_pairs_step.h"
#include "prepared_weights.h"
#include "step.h"
#include "tile.h"

namespace mine_fast::engine {

double ConcatCritic::multiply_adds(int64_t batch, int64_t shuffles) const {
  const int64_t partners = shuffles == kAllPairs ? batch : 1 + shuffles;
  const double pairs = static_cast<double>(partners) * static_cast<double>(batch);
  const double rows = 2.0 * static_cast<double>(batch * network_.layers[0].in * network_.layers[0].width);
  return pairs * static_cast<double>(network_.multiply_adds_per_pair()) + rows;
}

std::unique_ptr<GradientStep> ConcatCritic::step(const Kernels& kernels, int64_t batch, int64_t shuffles, Loss loss,
                                                 double alpha, ThreadPool& pool) const {
  if (shuffles == kAllPairs) return std::make_unique<AllPairsStep>(network_, kernels, batch, loss, alpha, pool);
  return std::make_unique<Step>(network_, kernels, batch, shuffles, loss, alpha, pool);
}

void ConcatCritic::score(const Kernels& kernels, const float* parameters, const Data& data, const Partners& partners,
                         float* scores, const Poll& poll) const {
  constexpr int64_t kRows = 128;
  const HiddenLayer& first = network_.layers[0];
  const int64_t dx = x_width, dy = y_width;
  Tile tile(network_, kernels, kRows, false);
  Buffer<float> x_part(kRows * first.stride), y_part(data.rows * first.stride), zeros(network_.max_stride);
  PreparedWeights prepared(network_, kernels, false);
  const StepWeights weights = prepared.of(parameters);
  const float* bias = network_.x_weights(parameters) + dx * first.stride;
  kernels.product({data.rows, first.width, dy, data.y, dy, 1, network_.y_weights(parameters), first.stride,
                   y_part.data(), first.stride, zeros.data()});
  std::vector<int32_t> row(kRows), partner(kRows);
  for (int32_t r = 0; r < kRows; ++r) row[r] = r;
  for (int64_t begin = 0; begin < data.rows; begin += kRows) {
    const int64_t rows = std::min(kRows, data.rows - begin);
    kernels.product({rows, first.width, dx, data.x + begin * dx, dx, 1, network_.x_weights(parameters), first.stride,
                     x_part.data(), first.stride, bias});
    for (int64_t s = 0; s < partners.shuffles; ++s) {
      poll();
      for (int64_t r = 0; r < rows; ++r) partner[r] = static_cast<int32_t>(partners.of(s, begin + r, data.rows));
      const float* tile_scores =
          tile.forward(weights, x_part.data(), y_part.data(), row.data(), partner.data(), rows, nullptr, nullptr);
      std::copy_n(tile_scores, rows, scores + s * data.rows + begin);
    }
  }
}

}  // namespace mine_fast::engine
