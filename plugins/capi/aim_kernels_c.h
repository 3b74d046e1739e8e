/* The operators of aim_kernels for callers without a C++ compiler: plain structs, integer codes, no exceptions.
 *
 * The meaning of every field is in aim_kernels/<operator>.h, which these structs mirror. A struct starts with its own
 * size, which the caller sets to sizeof(struct): a library of another version refuses it instead of misreading it.
 * Fields that a caller does not know are set to zero: zero is "absent" for pointers and is refused for sizes.
 *
 * Every function returns 0, or a code with its reason in aim_last_error(). Pointers are device pointers; `stream` is a
 * cudaStream_t (0: the default stream). Nothing is allocated and nothing waits for the device. */
#ifndef AIM_KERNELS_C_H
#define AIM_KERNELS_C_H

#include <stdint.h>

#if defined(__GNUC__)
#define AIM_API __attribute__((visibility("default")))
#else
#define AIM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { AIM_FLOAT32 = 0, AIM_FLOAT16 = 1, AIM_BFLOAT16 = 2 };
enum { AIM_ACTIVATION_NONE = 0, AIM_ACTIVATION_SILU = 1 };
enum { AIM_MAMBA1 = 1, AIM_MAMBA2 = 2 };
enum { AIM_CHANNELS_FIRST = 0, AIM_CHANNELS_LAST = 1 };

enum {
    AIM_SUCCESS = 0,
    AIM_NULL_POINTER = 1,
    AIM_UNSUPPORTED_SHAPE = 2,
    AIM_UNSUPPORTED_DTYPE = 3,
    AIM_BAD_STRIDE = 4,
    AIM_MISALIGNED = 5,
    AIM_WORKSPACE_TOO_SMALL = 6,
    AIM_UNSUPPORTED_ARCH = 7,
    AIM_CUDA_ERROR = 8,
    AIM_VERSION_MISMATCH = 9
};

typedef struct aim_ada_ln_norm_params {
    uint64_t size;
    int64_t rows, vectors, d_model;
    int32_t gate_index, shift_index, scale_index, dtype;
    float eps;
    int32_t reserved;
    const void* hidden;
    const float* residual;
    const float* modulation;
    const float* weight;
    void* x;
    float* residual_out;
} aim_ada_ln_norm_params;

typedef struct aim_embed_norm_params {
    uint64_t size;
    int64_t rows, positions, vectors, d_model;
    int32_t vocab_size, num_positions, position_offset, shift_index, scale_index, dtype;
    float eps;
    int32_t reserved;
    const int32_t* token;
    const int32_t* position;
    const float* class_embedding;
    const void* table;
    const void* position_table;
    const float* modulation;
    const float* weight;
    void* x;
    float* residual;
} aim_embed_norm_params;

typedef struct aim_final_norm_params {
    uint64_t size;
    int64_t rows, vectors, d_model;
    int32_t gate_index, dtype;
    float eps, final_eps;
    const void* hidden;
    const float* residual;
    const float* modulation;
    const float* final_modulation;
    const float* norm_f;
    const float* norm_final;
    void* x;
} aim_final_norm_params;

typedef struct aim_cached_attention_params {
    uint64_t size;
    int64_t rows, positions;
    int32_t num_tokens, nheads, headdim, dtype, state_dtype, reserved;
    const void* qkv;
    const float* rotary;
    const int32_t* position;
    void* k_cache;
    void* v_cache;
    void* out;
    void* workspace;
    uint64_t workspace_size;
} aim_cached_attention_params;

typedef struct aim_causal_conv1d_params {
    uint64_t size;
    int64_t rows, length, channels;
    int32_t d_conv, dtype, state_dtype, activation;
    const void* x;
    int64_t x_row_stride, x_time_stride;
    const float* weight;
    const float* bias;
    const void* conv_state_in;
    void* conv_state_out;
    void* y;
    int64_t y_row_stride, y_time_stride;
    const int32_t* active;
} aim_causal_conv1d_params;

typedef struct aim_selective_scan_params {
    uint64_t size;
    int64_t rows, length;
    int32_t kind, nheads, headdim, d_state, ngroups, dtype, state_dtype, dt_softplus;
    const void* x;
    int64_t x_row_stride, x_time_stride;
    const void* dt;
    int64_t dt_row_stride, dt_time_stride;
    const void* B;
    int64_t B_row_stride, B_time_stride;
    const void* C;
    int64_t C_row_stride, C_time_stride;
    const void* z;
    int64_t z_row_stride, z_time_stride;
    void* y;
    int64_t y_row_stride, y_time_stride;
    const float* A;
    const float* D;
    const float* dt_bias;
    const void* ssm_state_in;
    void* ssm_state_out;
    const int32_t* active;
    void* workspace;
    uint64_t workspace_size;
} aim_selective_scan_params;

typedef struct aim_rms_norm_gated_params {
    uint64_t size;
    int64_t rows, length, d;
    int32_t ngroups, dtype;
    float eps;
    int32_t reserved;
    const void* y;
    int64_t y_row_stride, y_time_stride;
    const void* z;
    int64_t z_row_stride, z_time_stride;
    const float* weight;
    void* out;
    int64_t out_row_stride, out_time_stride;
    const int32_t* active;
} aim_rms_norm_gated_params;

typedef struct aim_linear_params {
    uint64_t size;
    int64_t rows, in_features, out_features;
    int32_t dtype, float32_y;
    const void* x;
    const void* weight;
    void* y;
} aim_linear_params;

typedef struct aim_swi_glu_params {
    uint64_t size;
    int64_t rows, width;
    int32_t dtype, reserved;
    const void* gate;
    const void* up;
    void* y;
} aim_swi_glu_params;

typedef struct aim_linear_quantized_params {
    uint64_t size;
    int64_t rows, in_features, out_features;
    int32_t bits, group_size, dtype, float32_y;
    const void* x;
    const void* weight;
    const float* scale;
    void* y;
} aim_linear_quantized_params;

typedef struct aim_group_norm_silu_params {
    uint64_t size;
    int64_t batch, channels, height, width;
    int32_t groups, layout, dtype, silu;
    float eps;
    int32_t reserved;
    const void* x;
    const float* weight;
    const float* bias;
    void* y;
    const void* residual; /* null, as sum: nothing is added */
    void* sum;
    void* workspace;
    uint64_t workspace_size;
} aim_group_norm_silu_params;

typedef struct aim_norm_conv_params {
    uint64_t size;
    int64_t batch, in_channels, height, width, out_channels;
    int32_t groups, kind, dtype; /* kind: 0 same, 1 upsample, 2 image */
    float eps;
    const void* x;
    const float* affine; /* null: x as it is */
    const void* weight;
    const float* bias;
    const void* residual; /* null: nothing is added */
    const float* next_weight;
    const float* next_bias;
    void* y;
    float* next_affine;
    void* workspace;
    uint64_t workspace_size;
} aim_norm_conv_params;

typedef struct aim_mamba2_decode_step_params {
    uint64_t size;
    int64_t rows;
    int32_t nheads, headdim, d_state, ngroups, d_conv, dtype, conv_state_dtype, ssm_state_dtype;
    float eps;
    int32_t reserved;
    const void* zxbcdt;
    int64_t zxbcdt_row_stride;
    const float* conv_weight;
    const float* conv_bias;
    const float* A;
    const float* D;
    const float* dt_bias;
    const float* norm_weight;
    const void* conv_state_in;
    void* conv_state_out;
    const void* ssm_state_in;
    void* ssm_state_out;
    void* out;
    int64_t out_row_stride;
    const int32_t* active;
    void* workspace;
    uint64_t workspace_size;
} aim_mamba2_decode_step_params;

typedef struct aim_mamba2_layers_params {
    uint64_t size;
    int64_t rows;
    int32_t layers, d_model, nheads, headdim, d_state, ngroups, d_conv, dtype, conv_state_dtype, ssm_state_dtype;
    float eps;
    int32_t weight_bits;
    const float* residual;
    const float* modulation;
    const float* norm_weight;
    const void* in_proj;
    const float* conv_weight;
    const float* conv_bias;
    const float* A;
    const float* D;
    const float* dt_bias;
    const float* gated_norm_weight;
    const void* out_proj;
    const float* in_proj_scale;
    const float* out_proj_scale;
    const void* conv_state_in;
    void* conv_state_out;
    const void* ssm_state_in;
    void* ssm_state_out;
    float* residual_out;
    const int32_t* active;
    void* workspace;
    uint64_t workspace_size;
    void* exchange;
} aim_mamba2_layers_params;

typedef struct aim_mamba2_step_params {
    uint64_t size;
    aim_mamba2_layers_params layers;
    int64_t positions;
    int32_t vocab_size, num_positions, position_offset, reserved;
    const int32_t* token;
    const int32_t* position;
    const float* class_embedding;
    const void* table;
    const void* head;
    const float* head_scale;
    const void* position_table;
    const float* final_modulation;
    const float* norm_f;
    const float* norm_final;
    float* logits;
} aim_mamba2_step_params;

typedef struct aim_mamba2_lazy_step_params {
    uint64_t size;
    aim_mamba2_decode_step_params step;
    int32_t capacity, fold_every;
    const void* x_history_in;
    void* x_history_out;
    const void* B_history_in;
    void* B_history_out;
    const float* dt_history_in;
    float* dt_history_out;
    const float* counters_in;
    float* counters_out;
} aim_mamba2_lazy_step_params;

/* Lies in device memory: a captured launch is replayed with whatever settings are there. */
typedef struct aim_sampling {
    uint64_t seed;
    double top_p;
    float guidance_scale;
    float temperature;
    int32_t top_k;
    int32_t reserved[3];
} aim_sampling;

typedef struct aim_sample_params {
    uint64_t size;
    int64_t batch;
    int32_t vocab_size, num_tokens;
    const float* logits;
    const aim_sampling* sampling;
    const uint64_t* image_index;
    int32_t* token;
    int32_t* position;
    int32_t* tokens;
    int32_t* status;
    const int32_t* active;
} aim_sample_params;

typedef struct aim_image_params {
    uint64_t size;
    int64_t batch;
    int32_t channels, height, width, reserved;
    const float* image;
    uint8_t* pixels;
    int32_t* status;
} aim_image_params;

AIM_API int aim_ada_ln_norm(const aim_ada_ln_norm_params* params, void* stream);
AIM_API int aim_embed_norm(const aim_embed_norm_params* params, void* stream);
AIM_API int aim_final_norm(const aim_final_norm_params* params, void* stream);
AIM_API int aim_cached_attention(const aim_cached_attention_params* params, void* stream);
AIM_API int aim_causal_conv1d(const aim_causal_conv1d_params* params, void* stream);
AIM_API int aim_selective_scan(const aim_selective_scan_params* params, void* stream);
AIM_API int aim_rms_norm_gated(const aim_rms_norm_gated_params* params, void* stream);
AIM_API int aim_linear(const aim_linear_params* params, void* stream);
AIM_API int aim_swi_glu(const aim_swi_glu_params* params, void* stream);
AIM_API int aim_linear_quantized(const aim_linear_quantized_params* params, void* stream);
AIM_API int aim_group_norm_silu(const aim_group_norm_silu_params* params, void* stream);
AIM_API int aim_norm_conv(const aim_norm_conv_params* params, void* stream);
AIM_API int aim_mamba2_decode_step(const aim_mamba2_decode_step_params* params, void* stream);
AIM_API int aim_mamba2_layers(const aim_mamba2_layers_params* params, void* stream);
AIM_API int aim_mamba2_step(const aim_mamba2_step_params* params, void* stream);
AIM_API int aim_mamba2_lazy_step(const aim_mamba2_lazy_step_params* params, void* stream);
AIM_API int aim_sample(const aim_sample_params* params, void* stream);
AIM_API int aim_image_to_uint8(const aim_image_params* params, void* stream);

/* Bytes of workspace, from the sizes and dtypes alone: pointers may still be null. */
AIM_API int aim_cached_attention_workspace(const aim_cached_attention_params* params, uint64_t* bytes);
AIM_API int aim_selective_scan_workspace(const aim_selective_scan_params* params, uint64_t* bytes);
AIM_API int aim_group_norm_silu_workspace(const aim_group_norm_silu_params* params, uint64_t* bytes);
AIM_API int aim_norm_conv_workspace(const aim_norm_conv_params* params, uint64_t* bytes);
AIM_API int aim_mamba2_decode_step_workspace(const aim_mamba2_decode_step_params* params, uint64_t* bytes);
AIM_API int aim_mamba2_lazy_step_workspace(const aim_mamba2_lazy_step_params* params, uint64_t* bytes);
AIM_API int aim_mamba2_layers_workspace(const aim_mamba2_layers_params* params, uint64_t* bytes);
AIM_API int aim_mamba2_step_workspace(const aim_mamba2_step_params* params, uint64_t* bytes);

/* Bytes of exchange, for mamba2_step's layers, too; 0 where the current device has no use for it. */
AIM_API int aim_mamba2_layers_exchange(const aim_mamba2_layers_params* params, uint64_t* bytes);

/* 1 where the current device takes these sizes and types with one kernel, else 0. */
AIM_API int aim_mamba2_layers_resident(const aim_mamba2_layers_params* params);
AIM_API int aim_mamba2_step_resident(const aim_mamba2_step_params* params);

AIM_API int aim_version(void);                     /* major * 10000 + minor * 100 + patch */
AIM_API int aim_check_device(void);                /* AIM_UNSUPPORTED_ARCH: no code for the current device */
AIM_API const char* aim_last_error(void);          /* of this thread; valid until its next failing call */
AIM_API const char* aim_status_message(int status);
AIM_API const char* aim_supported_archs(void);     /* compute capabilities, as "80,87,90" */

#ifdef __cplusplus
}
#endif

#endif
