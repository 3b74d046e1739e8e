// The kernels of group_norm_silu, for either layout. Channels first: a group of an image is contiguous, so a block is
// of one group. Channels last: a pixel has all groups, so a block is of all of them and a thread of one vector of
// channels, at pixels that are `rows` apart.
#pragma once

#include "aim_kernels/group_norm_silu.h"
#include "dependent.cuh"
#include "device_math.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kFirstThreads = 256, kLastThreads = 512;
constexpr int kLastChannels = kLastThreads * 4;  // a thread a vector, of float32 too
constexpr int kAhead = 4;                        // vectors that a thread has in flight

struct GroupNormArgs {
    GroupNormSiluParams p;
    int extent = 0;   // what is cut into slices: an image's pixels, or with channels first a group's vectors
    int slices = 0;
    int slice = 0;    // how many of `extent` a slice has; the last may have fewer, none has none
    int columns = 0;  // channels last: vectors of a pixel
    int rows = 0;     // channels last: pixels that a block holds at a time
};

inline void set_slices(GroupNormArgs& args, int64_t slices) noexcept {
    args.slice = static_cast<int>(ceil_div(args.extent, slices));
    args.slices = static_cast<int>(ceil_div(args.extent, args.slice));
}

// Of `count` values: their mean, and the sum of their squared differences from it.
struct Moments {
    float count, mean, squares;
};

// Sums of differences from `pivot`, one of the values.
struct Sums {
    float pivot = 0.0f, sum = 0.0f, squares = 0.0f;
    __device__ __forceinline__ void add(float value) {
        const float difference = value - pivot;
        sum += difference;
        squares = fmaf(difference, difference, squares);
    }
    // Mean and squares; of no values, zeros.
    __device__ __forceinline__ float2 moments(int count) const {
        if (count == 0) return make_float2(0.0f, 0.0f);
        const float offset = sum / static_cast<float>(count);
        return make_float2(pivot + offset, fmaxf(squares - sum * offset, 0.0f));
    }
};

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// The moments of `number` parts together, by a whole warp. part(0) has values; others may have none.
template <typename Part>
__device__ __forceinline__ Moments merge(int number, Part part) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float pivot = part(0).mean;
    float count = 0.0f, sum = 0.0f, squares = 0.0f;
#pragma unroll 5
    for (int i = lane; i < number; i += 32) {
        const Moments m = part(i);
        count += m.count;
        sum = fmaf(m.count, m.mean - pivot, sum);
    }
    count = warp_sum(count);
    const float offset = warp_sum(sum) / count;
#pragma unroll 5
    for (int i = lane; i < number; i += 32) {
        const Moments m = part(i);
        const float difference = (m.mean - pivot) - offset;
        squares += fmaf(m.count * difference, difference, m.squares);
    }
    return {count, pivot + offset, warp_sum(squares)};
}

// Of a group of an image, from its slices: mean and 1 / deviation. `step` values are in one of `extent`.
__device__ __forceinline__ float2 merge_slices(const GroupNormArgs& a, int64_t group, int step) {
    const float2* slices = static_cast<const float2*>(a.p.workspace) + group * a.slices;
    const Moments m = merge(a.slices, [&](int i) {
        const float2 slice = slices[i];
        const int extent = min(a.slice, a.extent - i * a.slice);
        return Moments{static_cast<float>(extent) * static_cast<float>(step), slice.x, slice.y};
    });
    return make_float2(m.mean, 1.0f / sqrtf(m.squares / m.count + a.p.eps));
}

// How many of 0 .. extent - 1 a thread has that begins at `first` and goes on by `step`.
__device__ __forceinline__ int share(int extent, int first, int step) {
    return first < extent ? (extent - 1 - first) / step + 1 : 0;
}

template <typename T, int VEC>
__device__ __forceinline__ auto load_raw(const T* from) {
    if constexpr (VEC == 1) {
        return *from;
    } else {
        return *reinterpret_cast<const uint4*>(from);
    }
}

// A vector that is not needed again soon, lest it push out of L2 what is.
__device__ __forceinline__ uint4 load_passing(const void* from) {
#ifdef AIM_KERNELS_EMULATED
    return *static_cast<const uint4*>(from);
#else
    return __ldcs(static_cast<const uint4*>(from));
#endif
}

template <typename T, int VEC, typename Raw>
__device__ __forceinline__ void unpack(const Raw& raw, float (&out)[VEC]) {
    if constexpr (VEC == 1) {
        out[0] = to_float(raw);
    } else {
        Vec16<T>::unpack(raw, out);
    }
}

template <typename T, int VEC>
__device__ __forceinline__ void store(T* to, const float (&values)[VEC]) {
    if constexpr (VEC == 1) {
        from_float(*to, values[0]);
    } else {
        *reinterpret_cast<uint4*>(to) = Vec16<T>::pack(values);
    }
}

// The sum of two vectors, rounded to their type.
template <typename T, int VEC, typename Raw>
__device__ __forceinline__ Raw add(const Raw& a, const Raw& b) {
    float sum[VEC], other[VEC];
    unpack<T, VEC>(a, sum);
    unpack<T, VEC>(b, other);
#pragma unroll
    for (int i = 0; i < VEC; ++i) sum[i] += other[i];
    Raw raw;
    store<T, VEC>(reinterpret_cast<T*>(&raw), sum);
    return raw;
}

// What a channel's values are mapped by. float32 takes the mean off first, lest a large one cancel; 16-bit types lose
// more by their own rounding, so there it goes into the bias.
template <typename T>
struct Affine {
    static constexpr bool kApart = sizeof(T) == 4;
    float mean, scale, bias;
    __device__ __forceinline__ void set(float2 statistics, float weight, float offset) {
        scale = statistics.y * weight;
        mean = kApart ? statistics.x : 0.0f;
        bias = kApart ? offset : fmaf(-statistics.x, scale, offset);
    }
    __device__ __forceinline__ float of(float value) const {
        return fmaf(kApart ? value - mean : value, scale, bias);
    }
};

// exp is the fast one: one an element is what the kernel spends most of its instructions on.
template <int VEC>
__device__ __forceinline__ void silu_all(float (&value)[VEC]) {
#pragma unroll
    for (int i = 0; i < VEC; ++i) value[i] = __fdividef(value[i], 1.0f + __expf(-value[i]));
}

template <typename T, int VEC, bool kAdds>
__global__ void __launch_bounds__(kFirstThreads) first_statistics(const GroupNormArgs a) {
    using Raw = decltype(load_raw<T, VEC>(nullptr));
    __shared__ float2 parts[kFirstThreads];
    const int slice = static_cast<int>(blockIdx.x) % a.slices;
    const int64_t group = static_cast<int>(blockIdx.x) / a.slices;
    const int extent = min(a.slice, a.extent - slice * a.slice), thread = static_cast<int>(threadIdx.x);
    const int64_t offset = (group * a.extent + slice * a.slice) * VEC;
    const T* x = static_cast<const T*>(a.p.x) + offset;
    const T* residual = kAdds ? static_cast<const T*>(a.p.residual) + offset : nullptr;
    T* sum = kAdds ? static_cast<T*>(a.p.sum) + offset : nullptr;
    wait_for_previous();
    let_next_start();

    Sums sums;
    for (int at = thread; at < extent; at += kFirstThreads * kAhead) {
        Raw raw[kAhead] = {}, other[kAdds ? kAhead : 1] = {};
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int64_t here = at + u * kFirstThreads;
            if (here < extent) raw[u] = load_raw<T, VEC>(x + here * VEC);
            if constexpr (kAdds) {
                if (here < extent) other[u] = load_raw<T, VEC>(residual + here * VEC);
            }
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int64_t here = at + u * kFirstThreads;
            if (here >= extent) break;
            if constexpr (kAdds) {
                raw[u] = add<T, VEC>(raw[u], other[u]);
                *reinterpret_cast<Raw*>(sum + here * VEC) = raw[u];
            }
            float value[VEC];
            unpack<T, VEC>(raw[u], value);
            if (u == 0 && at == thread) sums.pivot = value[0];
#pragma unroll
            for (int i = 0; i < VEC; ++i) sums.add(value[i]);
        }
    }
    parts[thread] = sums.moments(share(extent, thread, kFirstThreads) * VEC);
    __syncthreads();
    if (thread >= 32) return;
    const Moments m = merge(kFirstThreads, [&](int i) {
        return Moments{static_cast<float>(share(extent, i, kFirstThreads) * VEC), parts[i].x, parts[i].y};
    });
    if (thread == 0) static_cast<float2*>(a.p.workspace)[group * a.slices + slice] = make_float2(m.mean, m.squares);
}

template <typename T, int VEC>
__global__ void __launch_bounds__(kFirstThreads) first_apply(const GroupNormArgs a) {
    using Raw = decltype(load_raw<T, VEC>(nullptr));
    // From the end: what the first kernel read last is still in L2.
    const int block = static_cast<int>(gridDim.x - 1 - blockIdx.x);
    const int slice = block % a.slices;
    const int64_t group = block / a.slices;
    const int begin = slice * a.slice, end = min(begin + a.slice, a.extent);
    const int plane = static_cast<int>(a.p.height * a.p.width) / VEC;
    const int channel0 = static_cast<int>(group % a.p.groups) * static_cast<int>(a.p.channels / a.p.groups);
    const T* x = static_cast<const T*>(a.p.residual == nullptr ? a.p.x : a.p.sum) + group * a.extent * VEC;
    T* y = static_cast<T*>(a.p.y) + group * a.extent * VEC;
    wait_for_previous();
    let_next_start();

    const float2 statistics = merge_slices(a, group, VEC);
    for (int at = begin + static_cast<int>(threadIdx.x); at < end; at += kFirstThreads * kAhead) {
        Raw raw[kAhead] = {};
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int64_t here = at + u * kFirstThreads;
            if (here < end) raw[u] = load_raw<T, VEC>(x + here * VEC);
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int64_t here = at + u * kFirstThreads;
            if (here >= end) break;
            const int channel = channel0 + static_cast<int>(here) / plane;
            Affine<T> affine;
            affine.set(statistics, a.p.weight[channel], a.p.bias[channel]);
            float value[VEC];
            unpack<T, VEC>(raw[u], value);
#pragma unroll
            for (int i = 0; i < VEC; ++i) value[i] = affine.of(value[i]);
            if (a.p.silu) silu_all(value);
            store<T, VEC>(y + here * VEC, value);
        }
    }
}

template <typename T, bool kAdds>
__global__ void __launch_bounds__(kLastThreads, 2) last_statistics(const GroupNormArgs a) {
    constexpr int VEC = Vec16<T>::kSize;
    __shared__ float2 parts[kLastThreads * VEC];  // (rows, channels)
    wait_for_previous();
    let_next_start();
    const int slice = static_cast<int>(blockIdx.x) % a.slices;
    const int64_t image = static_cast<int>(blockIdx.x) / a.slices;
    const int extent = min(a.slice, a.extent - slice * a.slice), thread = static_cast<int>(threadIdx.x);
    const int channels = static_cast<int>(a.p.channels), row = thread / a.columns, column = thread % a.columns;
    const int64_t offset = (image * a.extent + slice * a.slice) * channels + column * VEC;
    const T* x = static_cast<const T*>(a.p.x) + offset;
    const T* residual = kAdds ? static_cast<const T*>(a.p.residual) + offset : nullptr;
    T* sum = kAdds ? static_cast<T*>(a.p.sum) + offset : nullptr;
    if (row < a.rows) {
        Sums sums[VEC];
        for (int at = row; at < extent; at += a.rows * kAhead) {
            uint4 raw[kAhead] = {}, other[kAdds ? kAhead : 1] = {};
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                const int64_t here = at + u * a.rows;
                if (here < extent) raw[u] = load_raw<T, VEC>(x + here * channels);
                if constexpr (kAdds) {
                    if (here < extent) other[u] = load_passing(residual + here * channels);
                }
            }
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                const int64_t here = at + u * a.rows;
                if (here >= extent) break;
                if constexpr (kAdds) {
                    raw[u] = add<T, VEC>(raw[u], other[u]);
                    *reinterpret_cast<uint4*>(sum + here * channels) = raw[u];
                }
                float value[VEC];
                unpack<T, VEC>(raw[u], value);
#pragma unroll
                for (int i = 0; i < VEC; ++i) {
                    if (u == 0 && at == row) sums[i].pivot = value[i];
                    sums[i].add(value[i]);
                }
            }
        }
        const int count = share(extent, row, a.rows);
#pragma unroll
        for (int i = 0; i < VEC; ++i) parts[row * channels + column * VEC + i] = sums[i].moments(count);
    }
    __syncthreads();
    const int width = channels / a.p.groups;
    float2* slices = static_cast<float2*>(a.p.workspace) + image * a.p.groups * a.slices + slice;
    for (int group = thread / 32; group < a.p.groups; group += kLastThreads / 32) {
        const Moments m = merge(a.rows * width, [&](int i) {
            const int from = i / width;
            const float2 part = parts[from * channels + group * width + i % width];
            return Moments{static_cast<float>(share(extent, from, a.rows)), part.x, part.y};
        });
        if (thread % 32 == 0) slices[static_cast<int64_t>(group) * a.slices] = make_float2(m.mean, m.squares);
    }
}

template <typename T>
__global__ void __launch_bounds__(kLastThreads, 2) last_apply(const GroupNormArgs a) {
    constexpr int VEC = Vec16<T>::kSize;
    __shared__ float2 statistics[kLastChannels];  // of the image's groups
    // From the end: what the first kernel read last is still in L2.
    const int block = static_cast<int>(gridDim.x - 1 - blockIdx.x);
    wait_for_previous();
    let_next_start();
    const int slice = block % a.slices;
    const int64_t image = block / a.slices;
    const int end = min((slice + 1) * a.slice, a.extent), thread = static_cast<int>(threadIdx.x);
    const int channels = static_cast<int>(a.p.channels), width = channels / a.p.groups;
    const int column = thread % a.columns, row = thread / a.columns;
    const int64_t offset = image * a.extent * channels + column * VEC;
    const T* x = static_cast<const T*>(a.p.residual == nullptr ? a.p.x : a.p.sum) + offset;
    T* y = static_cast<T*>(a.p.y) + offset;
    for (int group = thread / 32; group < a.p.groups; group += kLastThreads / 32) {
        const float2 merged = merge_slices(a, image * a.p.groups + group, width);
        if (thread % 32 == 0) statistics[group] = merged;
    }
    __syncthreads();
    Affine<T> affine[VEC];
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
        const int channel = column * VEC + i;
        affine[i].set(statistics[channel / width], a.p.weight[channel], a.p.bias[channel]);
    }
    for (int at = row < a.rows ? slice * a.slice + row : end; at < end; at += a.rows * kAhead) {
        uint4 raw[kAhead] = {};
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int64_t here = at + u * a.rows;
            if (here < end) raw[u] = load_raw<T, VEC>(x + here * channels);
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int64_t here = at + u * a.rows;
            if (here >= end) break;
            float value[VEC];
            unpack<T, VEC>(raw[u], value);
#pragma unroll
            for (int i = 0; i < VEC; ++i) value[i] = affine[i].of(value[i]);
            if (a.p.silu) silu_all(value);
            store<T, VEC>(y + here * channels, value);
        }
    }
}

}  // namespace detail
}  // namespace aim_kernels
