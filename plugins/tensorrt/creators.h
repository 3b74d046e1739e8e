// What registration needs of the two generations of plugins.
#pragma once

#include <NvInferRuntime.h>

namespace aim_edge {

#if NV_TENSORRT_MAJOR >= 10
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

// One creator an operator, made on the first call. Null, and a count of 0, after logging that there was no memory.
CreatorInterface* const* creators(int32_t& count) noexcept;

}  // namespace aim_edge
