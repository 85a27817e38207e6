// The torch wheel brings libtorch with gloo inside but without gloo's headers. ProcessGroupGloo.hpp holds these types
// by pointer only, so that declarations are enough. Nothing here may be constructed or derived from by the shim: the
// real layouts are libtorch's.
#pragma once

#include <chrono>

namespace gloo {

namespace transport {
class UnboundBuffer;
} // namespace transport

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

} // namespace gloo
