// Tensors of the host program: float64 values that their data type holds exactly, and their copy on the device.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

using nvinfer1::DataType;

inline void cuda_check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s: CUDA error %d\n", what, static_cast<int>(error));
    std::exit(2);
}

inline size_t type_size(DataType type) { return type == DataType::kFLOAT || type == DataType::kINT32 ? 4 : 2; }

// `value` to the bytes of `type` and back.
inline void store(double value, DataType type, unsigned char* bytes) {
    const auto single = static_cast<float>(value);
    if (type == DataType::kFLOAT) std::memcpy(bytes, &single, 4);
    if (type == DataType::kHALF) {
        const __half half = __float2half_rn(single);
        std::memcpy(bytes, &half, 2);
    }
    if (type == DataType::kBF16) {
        const __nv_bfloat16 brain = __float2bfloat16_rn(single);
        std::memcpy(bytes, &brain, 2);
    }
    if (type == DataType::kINT32) {
        const auto whole = static_cast<int32_t>(value);
        std::memcpy(bytes, &whole, 4);
    }
}

inline double load(DataType type, const unsigned char* bytes) {
    float single = 0.0f;
    if (type == DataType::kFLOAT) std::memcpy(&single, bytes, 4);
    if (type == DataType::kHALF) {
        __half half;
        std::memcpy(&half, bytes, 2);
        single = __half2float(half);
    }
    if (type == DataType::kBF16) {
        __nv_bfloat16 brain;
        std::memcpy(&brain, bytes, 2);
        single = __bfloat162float(brain);
    }
    if (type == DataType::kINT32) {
        int32_t whole = 0;
        std::memcpy(&whole, bytes, 4);
        return whole;
    }
    return single;
}

struct Tensor {
    std::string name;
    DataType type = DataType::kFLOAT;
    std::vector<int64_t> shape;
    std::vector<double> values;     // in the order of `shape`
    bool channels_last = false;     // on the device; of (batch, channels, height, width)

    size_t count() const {
        size_t product = 1;
        for (int64_t dim : shape) product *= static_cast<size_t>(dim);
        return product;
    }
    size_t bytes() const { return count() * type_size(type); }

    // Where an element lies on the device.
    size_t place(size_t i) const {
        if (!channels_last) return i;
        const size_t channels = static_cast<size_t>(shape[1]), plane = static_cast<size_t>(shape[2] * shape[3]);
        const size_t image = i / (channels * plane), channel = i / plane % channels;
        return (image * plane + i % plane) * channels + channel;
    }

    std::vector<unsigned char> raw() const {
        std::vector<unsigned char> data(bytes());
        for (size_t i = 0; i < values.size(); ++i) store(values[i], type, &data[place(i) * type_size(type)]);
        return data;
    }
    void read(const std::vector<unsigned char>& data) {
        values.resize(count());
        for (size_t i = 0; i < values.size(); ++i) values[i] = load(type, &data[place(i) * type_size(type)]);
    }

    nvinfer1::PluginTensorDesc description() const {
        nvinfer1::PluginTensorDesc made{};
        made.dims.nbDims = static_cast<int32_t>(shape.size());
        for (size_t i = 0; i < shape.size(); ++i) made.dims.d[i] = shape[i];
        made.type = type;
        made.format = channels_last ? nvinfer1::TensorFormat::kHWC8 : nvinfer1::TensorFormat::kLINEAR;
        made.scale = 1.0f;
        return made;
    }
};

template <typename Draw>
Tensor make_tensor(std::string name, DataType type, std::vector<int64_t> shape, Draw draw) {
    Tensor made{std::move(name), type, std::move(shape), {}, false};
    unsigned char bytes[4];
    made.values.resize(made.count());
    for (double& value : made.values) {
        store(draw(), type, bytes);
        value = load(type, bytes);
    }
    return made;
}

// A tensor's bytes on the device. What an output does not write stays poison, which no result survives.
class DeviceBuffer {
public:
    explicit DeviceBuffer(const Tensor& tensor) : mSize(tensor.bytes()) {
        cuda_check(cudaMalloc(&mPointer, mSize), "cudaMalloc");
        fill(tensor);
    }
    explicit DeviceBuffer(size_t size) : mSize(size == 0 ? 1 : size) {
        cuda_check(cudaMalloc(&mPointer, mSize), "cudaMalloc");
        poison();
    }
    ~DeviceBuffer() { cudaFree(mPointer); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;

    void fill(const Tensor& tensor) {
        cuda_check(cudaMemcpy(mPointer, tensor.raw().data(), mSize, cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    void poison() { cuda_check(cudaMemset(mPointer, 0xff, mSize), "cudaMemset"); }
    std::vector<unsigned char> bytes() const {
        std::vector<unsigned char> data(mSize);
        cuda_check(cudaMemcpy(data.data(), mPointer, mSize, cudaMemcpyDeviceToHost), "cudaMemcpy");
        return data;
    }
    void* get() const { return mPointer; }

private:
    void* mPointer = nullptr;
    size_t mSize = 0;
};

// The largest difference over the largest expected value; infinite where a result is not a number. Where none is
// expected (NaN), any result passes.
inline double relative_error(const std::vector<double>& found, const std::vector<double>& expected) {
    double largest = 1e-30, difference = found.size() == expected.size() ? 0.0 : INFINITY;
    for (size_t i = 0; i < expected.size() && i < found.size(); ++i) {
        if (std::isnan(expected[i])) continue;
        largest = std::fmax(largest, std::fabs(expected[i]));
        const double here = std::fabs(found[i] - expected[i]);
        if (!(here <= difference)) difference = std::isnan(here) ? INFINITY : here;
    }
    return difference / largest;
}
