// A tensor's pointer, or a size, as the kernels' parameters have them.
#pragma once

#include <cstdint>

namespace aim_edge {

inline const float* floats(const void* pointer) noexcept { return static_cast<const float*>(pointer); }
inline const int32_t* ints(const void* pointer) noexcept { return static_cast<const int32_t*>(pointer); }
inline int32_t narrow(int64_t value) noexcept { return static_cast<int32_t>(value); }

}  // namespace aim_edge
