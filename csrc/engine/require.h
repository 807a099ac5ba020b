// Refusing an argument, in a way that bindings hand to Python as a ValueError.
#pragma once

#include <stdexcept>
#include <string>

namespace mine_fast::engine {

inline void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace mine_fast::engine
