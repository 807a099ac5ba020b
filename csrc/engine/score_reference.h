// What exp of the scores of a step is taken relative to, so that it stays within fp32.
#pragma once

namespace mine_fast::engine {

// Beyond this, T - reference is brought back by a new reference: weights stay below e^40, far from fp32's end.
constexpr float kRescaleAbove = 40.f;
constexpr float kRescaleBelow = -20.f;  // a first tile this far below the guess would lose its small weights

// A guess (the last log-EMA), if it will do for scores of this maximum.
inline float first_reference(float guess, float most) {
  const float above = most - guess;
  return above <= kRescaleAbove && above >= kRescaleBelow ? guess : most;
}

}  // namespace mine_fast::engine
