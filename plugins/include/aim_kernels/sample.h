// Draws the next code of each image: guidance, temperature, top-k, top-p and one Philox4x32-10 number.
//
//   guided = null + (label - null) * guidance_scale, rounded to float32 at each step;  /= temperature unless that is 1
//   top-k keeps what is at least the k-th largest guided logit;  weight = exp(guided - largest) in float64
//   top-p removes, in ascending order, the weights whose cumulative share is at most 1 - top_p: equal ones stay or go
//   together, and the largest stays
//   token = the first code whose cumulative weight exceeds u * total, u = Philox(seed, step, image index) in [0, 1)
//
// The numbers are those of runtime/sampler.py, to the same token. Weights are summed as integers, so that no order of
// threads shows: an image's code depends on its own two rows, its settings and its index alone.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

// How codes are drawn. Lies in device memory, so that a captured launch can be replayed with other settings. No value
// here makes a launch fail: a top_p of 1 or more keeps all, one of 0 or less the most probable code alone.
struct Sampling {
    uint64_t seed = 0;
    double top_p = 1.0;                    // (0, 1]
    float guidance_scale = 1.0f;           // >= 0; 1: no guidance
    float temperature = 1.0f;              // > 0
    int32_t top_k = 0;                     // 0 or less: all; more than V means V
    int32_t reserved[3] = {0, 0, 0};
};

struct SampleParams {
    int64_t batch = 0;                     // B >= 1
    int32_t vocab_size = 0;                // V, 1..65536
    int32_t num_tokens = 0;                // T >= 1
    const float* logits = nullptr;         // (2 B, V): label rows, then null rows
    const Sampling* sampling = nullptr;    // one, for all images
    const uint64_t* image_index = nullptr; // (B)
    int32_t* token = nullptr;              // (B) out: the code drawn
    int32_t* position = nullptr;           // (B) in: index of the code to draw, the step of Philox; out: one more
    int32_t* tokens = nullptr;             // (B, T) out: column position[b] alone; none where that is outside 0..T-1
    int32_t* status = nullptr;             // (B): if 0, becomes 1 + position at the first step whose largest guided
                                           // logit is NaN or infinite; the code is 0 then, and position advances
    const int32_t* active = nullptr;       // (B); an image with 0 is left untouched; null: all images
};

Status validate_shapes(const SampleParams& params) noexcept;
Status validate(const SampleParams& params) noexcept;
Status launch(const SampleParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
