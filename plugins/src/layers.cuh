// The resident form of mamba2_layers and mamba2_step: what its host side and its kernel share.
#pragma once

#include "aim_kernels/mamba2_step.h"
#include "host.h"

namespace aim_kernels {
namespace detail {

// A number, or two of float16, on the way from one block to another in the low half; in the high half the tag of the
// layer it belongs to. The two travel in one store, so that whoever reads the second has the first: no barrier, no fence.
//
// A place is written anew in every layer. By then whoever needs it has read it: a number of the next layer follows from
// all features of out_proj in this one, those from all lines of y, those from all features of in_proj. So a block may
// rely on zxbcdt only before it has sent what it owes of y or of out_proj's features, and on y and hidden only for
// features that it owes.
//
// A call's layers have the tags after those that the calls before it on the same memory gave: none in the workspace,
// which a call clears; in the exchange the first numbers say how many. So what a call finds has tags before its own, and
// no older than the last call's: whatever is waited for in a layer was sent in that layer of that call, too, whichever
// rows are active. Tags are compared by the sign of their difference, and may go past 2^32.
using Word = unsigned long long;

// A matrix of every layer. Its features are divided among the blocks, a block's into units that come from memory as one,
// and a unit's inputs among warps.
struct Product {
    const void* weight = nullptr;  // (layers, features, inputs)
    const float* scale = nullptr;  // (layers, features), of integers
    int features = 0;
    int inputs = 0;
    int a_block = 0;  // features
    int a_unit = 0;   // features, at most 16
    int line = 0;     // bytes from one feature of a unit to the next, in shared memory
};

struct ResidentArgs {
    Mamba2LayersParams p;
    StepEnds ends;          // of mamba2_step; logits null: of mamba2_layers
    Product product[2];     // in_proj, out_proj
    Product head;           // of mamba2_step
    int blocks = 0;         // of the kernel
    int units = 0;          // that shared memory holds
    int d_inner = 0;
    int conv_dim = 0;
    int row_shift = 0;      // log2 of 2 or 4, whichever the rows fit
    int blocks_a_row = 0;   // that share the state of a row
    int lines_a_block = 0;  // of the d_inner lines of d_state numbers that a row's state has
    int x_stride = 0;       // elements from one row of a product's input to the next, in shared memory
    unsigned* given = nullptr;  // tags, by the calls before, for each block to read and to count on; null: none
    Word* zxbcdt = nullptr; // (rows, d_in_proj)
    Word* y = nullptr;      // (rows, d_inner / 2), gated, two numbers a word
    Word* hidden = nullptr; // (rows, d_model / 2), likewise
};

// y = x W^T of one layer, as a call of linear or linear_quantized.
Status launch_product(const Mamba2LayersParams& params, const Product& product, int64_t layer, const void* x, void* y,
                      bool float32_y, cudaStream_t stream) noexcept;

// `ends`: of a step; null for its layers alone.
bool resident_fits(const Mamba2LayersParams& params, const StepEnds* ends, const DeviceInfo& device) noexcept;
size_t resident_workspace(const Mamba2LayersParams& params) noexcept;
size_t resident_exchange(const Mamba2LayersParams& params, const DeviceInfo& device) noexcept;
Status launch_resident(const Mamba2LayersParams& params, const StepEnds* ends, const DeviceInfo& device,
                       cudaStream_t stream) noexcept;

}  // namespace detail
}  // namespace aim_kernels
