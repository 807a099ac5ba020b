// What the tiles of a step read beside the parameters themselves: later layers' matrices turned for the forward, and
// tables for the backward of a last ReLU layer.
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "network.h"
#include "tile.h"

namespace mine_fast::engine {

class PreparedWeights {
 public:
  // Without `backward` there are no tables.
  PreparedWeights(const Network& network, const Kernels& kernels, bool backward);

  // Made anew from these parameters (padded layout), which must stay where they are while the result is in use.
  StepWeights of(const float* parameters);

 private:
  const Network& network_;
  const Kernels& kernels_;
  Buffer<float> transposed_, tables_;
};

}  // namespace mine_fast::engine
