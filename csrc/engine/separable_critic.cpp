// The step on all pairs and the scores of two towers' outputs.
#include "separable_critic.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "../shuffle.h"
#include "require.h"
#include "score_reference.h"
#include "tower.h"

namespace mine_fast::engine {

namespace {

constexpr int64_t kTileFloats = int64_t{1} << 16;  // of W: half of a 512 KB cache
constexpr int64_t kScoreRows = 128;

// Outputs [psi, b, 1] of y's tower become g = [psi, 1, b], those [phi, a, 1] of x's are f.
void swap_last(float* rows, int64_t stride, int64_t count, int64_t outputs) {
  for (int64_t r = 0; r < count; ++r) std::swap(rows[r * stride + outputs - 1], rows[r * stride + outputs]);
}

class SeparableStep : public GradientStep {
 public:
  SeparableStep(const SeparableCritic& critic, const Kernels& kernels, int64_t batch, Loss loss, double alpha)
      : critic_(critic),
        kernels_(kernels),
        batch_(batch),
        tile_rows_(std::min<int64_t>(batch, std::max<int64_t>(4, kTileFloats / padded(batch) / 4 * 4))),
        loss_(loss),
        alpha_(alpha),
        x_(critic.x_layers, kernels, batch, true),
        y_(critic.y_layers, kernels, batch, true),
        gradient_(critic.size()),
        transposed_((critic.outputs() + 1) * padded(batch)),
        tile_(tile_rows_ * padded(batch)),
        zeros_(std::max(padded(batch), critic.stride())),
        grad_f_(batch * critic.stride()),
        grad_g_(batch * critic.stride()) {}

  Result compute(const Data& data, const float* parameters, const StepState& state, const Poll& poll) override {
    gather(data, state);
    const float* y_parameters = parameters + critic_.x_layers.size;
    float* f = x_.forward(parameters, batch_);
    float* g = y_.forward(y_parameters, batch_);
    const int64_t stride = critic_.stride(), outputs = critic_.outputs(), products = outputs + 1;
    swap_last(g, stride, batch_, outputs);
    kernels_.transpose(g, stride, batch_, products, transposed_.data(), padded(batch_));

    joint_sum_ = sum_ = 0;
    const float guess = static_cast<float>(loss_ == Loss::kMine ? state.log_ema : -INFINITY);
    for (int64_t begin = 0; begin < batch_; begin += tile_rows_) {
      poll();
      tile(begin, std::min(tile_rows_, batch_ - begin), f, g, guess);
    }

    const double pairs = static_cast<double>(batch_) * static_cast<double>(batch_ - 1);
    const double log_mean_exp = reference_ + std::log(sum_ / pairs);
    const DvTerm<double> term =
        dv_term<double>(joint_sum_ / static_cast<double>(batch_), log_mean_exp, state.log_ema, alpha_, loss_);
    const float factor = static_cast<float>(std::exp(reference_ - term.log_normaliser) / pairs);
    const float joint = static_cast<float>(-1.0 / static_cast<double>(batch_));
    const int64_t floats = batch_ * stride;
    kernels_.scale(grad_f_.data(), floats, factor);
    kernels_.add(grad_f_.data(), g, floats, joint);
    kernels_.scale(grad_g_.data(), floats, factor);
    kernels_.add(grad_g_.data(), f, floats, joint);
    swap_last(grad_g_.data(), stride, batch_, outputs);
    for (int64_t i = 0; i < batch_; ++i)  // the ones are no outputs
      grad_f_[i * stride + outputs] = grad_g_[i * stride + outputs] = 0.f;
    x_.backward(parameters, grad_f_.data(), gradient_.data());
    y_.backward(y_parameters, grad_g_.data(), gradient_.data() + critic_.x_layers.size);
    return {term, std::isfinite(factor) ? 1.f : factor};
  }

  float* gradient() override { return gradient_.data(); }

 private:
  void gather(const Data& data, const StepState& state) {
    const Bijection order(state.seed, state.epoch, kPassStream, data.rows);
    for (int64_t i = 0; i < batch_; ++i) {
      const int64_t row = order.apply(state.position + i);
      std::copy_n(data.x + row * critic_.x_width, critic_.x_width, x_.input(i));
      std::copy_n(data.y + row * critic_.y_width, critic_.y_width, y_.input(i));
    }
  }

  // Pairs of rows [begin, begin + rows) of x with all rows of y.
  void tile(int64_t begin, int64_t rows, const float* f, const float* g, float guess) {
    const int64_t stride = critic_.stride(), products = critic_.outputs() + 1, columns = padded(batch_);
    const float* f_rows = f + begin * stride;
    kernels_.product(
        {rows, batch_, products, f_rows, stride, 1, transposed_.data(), columns, tile_.data(), columns, zeros_.data()});
    float most = -INFINITY;
    for (int64_t r = 0; r < rows; ++r) {
      float* scores = tile_.data() + r * columns;
      joint_sum_ += scores[begin + r];
      scores[begin + r] = -INFINITY;  // its weight is 0
      most = std::max(most, kernels_.maximum(scores, batch_));
    }
    if (begin == 0) {
      reference_ = first_reference(guess, most);
    } else if (most - reference_ > kRescaleAbove) {
      const double factor = std::exp(static_cast<double>(reference_) - static_cast<double>(most));
      kernels_.scale(grad_f_.data(), begin * stride, static_cast<float>(factor));
      kernels_.scale(grad_g_.data(), grad_g_.size(), static_cast<float>(factor));
      sum_ *= factor;
      reference_ = most;
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* row = tile_.data() + r * columns;
      sum_ += kernels_.exponentials(row, batch_, reference_, row);
    }
    kernels_.product({rows, products, batch_, tile_.data(), columns, 1, g, stride, grad_f_.data() + begin * stride,
                      stride, zeros_.data()});
    kernels_.product({batch_, products, rows, tile_.data(), 1, columns, f_rows, stride, grad_g_.data(), stride,
                      begin == 0 ? zeros_.data() : nullptr});
  }

  const SeparableCritic& critic_;
  const Kernels& kernels_;
  const int64_t batch_, tile_rows_;
  const Loss loss_;
  const double alpha_;
  Tower x_, y_;
  Buffer<float> gradient_;
  Buffer<float> transposed_;  // [outputs + 1, B] of g
  Buffer<float> tile_;        // [tile rows, B]
  Buffer<float> zeros_;
  Buffer<float> grad_f_, grad_g_;  // [B, stride]
  float reference_ = 0;
  double sum_ = 0, joint_sum_ = 0;  // of the weights, of the joint scores
};

}  // namespace

SeparableCritic::SeparableCritic(Layers of_x, Layers of_y)
    : Critic(of_x.layers[0].in, of_y.layers[0].in), x_layers(std::move(of_x)), y_layers(std::move(of_y)) {
  const int64_t x_outputs = x_layers.last().width, y_outputs = y_layers.last().width;
  require(x_outputs == y_outputs && x_outputs >= 2,
          "the towers must have as many outputs as each other, and at least 2, got " + std::to_string(x_outputs) +
              " and " + std::to_string(y_outputs));
}

void SeparableCritic::from_flat(const float* flat, float* padded) const {
  x_layers.from_flat(flat, padded);
  y_layers.from_flat(flat + x_layers.flat_size, padded + x_layers.size);
}

void SeparableCritic::to_flat(const float* padded, float* flat) const {
  x_layers.to_flat(padded, flat);
  y_layers.to_flat(padded + x_layers.size, flat + x_layers.flat_size);
}

double SeparableCritic::multiply_adds(int64_t batch, int64_t /*shuffles*/) const {
  const auto of_row = [](const Layers& layers) {
    return static_cast<double>(layers.multiply_adds() + 2 * layers.layers[0].in * layers.layers[0].width);
  };
  const double rows = static_cast<double>(batch);
  return rows * (of_row(x_layers) + of_row(y_layers)) + rows * rows * 3.0 * static_cast<double>(outputs() + 1);
}

std::unique_ptr<GradientStep> SeparableCritic::step(const Kernels& kernels, int64_t batch, int64_t /*shuffles*/,
                                                    Loss loss, double alpha, ThreadPool& /*pool*/) const {
  return std::make_unique<SeparableStep>(*this, kernels, batch, loss, alpha);
}

void SeparableCritic::score(const Kernels& kernels, const float* parameters, const Data& data, const Partners& partners,
                            float* scores, const Poll& poll) const {
  Tower x(x_layers, kernels, kScoreRows, false), y(y_layers, kernels, kScoreRows, false);
  Buffer<float> f(data.rows * stride()), g(data.rows * stride());
  for (int64_t begin = 0; begin < data.rows; begin += kScoreRows) {
    poll();
    const int64_t rows = std::min(kScoreRows, data.rows - begin);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(data.x + (begin + r) * x_width, x_width, x.input(r));
      std::copy_n(data.y + (begin + r) * y_width, y_width, y.input(r));
    }
    std::copy_n(x.forward(parameters, rows), rows * stride(), f.data() + begin * stride());
    std::copy_n(y.forward(parameters + x_layers.size, rows), rows * stride(), g.data() + begin * stride());
  }
  swap_last(g.data(), stride(), data.rows, outputs());
  score_factors(kernels, f.data(), g.data(), stride(), outputs() + 1, data.rows, partners, scores, poll);
}

void score_factors(const Kernels& kernels, const float* f, const float* g, int64_t stride, int64_t width, int64_t n,
                   const Partners& partners, float* scores, const Poll& poll) {
  for (int64_t s = 0; s < partners.shuffles; ++s) {
    poll();
    for (int64_t r = 0; r < n; ++r)
      kernels.scores(f + r * stride, stride, 1, width, g + partners.of(s, r, n) * stride, scores + s * n + r);
  }
}

}  // namespace mine_fast::engine
