// What registration needs of the two generations of plugins.
#pragma once

#include <NvInferRuntime.h>

#include <cstddef>
#include <utility>

#include "operator.h"

namespace aim_edge {

#if NV_TENSORRT_MAJOR >= 10
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

// One creator an operator, made on the first call. Null, and a count of 0, after logging that there was no memory.
CreatorInterface* const* creators(int32_t& count) noexcept;

// One creator of type Creator an operator of the table.
template <typename Creator, size_t... kIndices>
CreatorInterface* const* list_creators(std::index_sequence<kIndices...>) noexcept {
    static Creator made[] = {Creator(kOperators[kIndices])...};
    static CreatorInterface* const list[] = {&made[kIndices]...};
    return list;
}

}  // namespace aim_edge
