// The instructions of tile_copy.cuh and wgmma.cuh, by the layouts that their comments state. Products are made when they are
// waited for, whichever wait that is.
#pragma once

#include "device_math.cuh"
#include "host.h"
#include "mma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kTileColumns = 64;

struct TileMap {
    const unsigned char* matrix;
    int64_t rows, columns;
    int box_rows, pieces;  // of 16 bytes, a row's
};

inline Status make_tile_map(const char*, TileMap* out, const void* matrix, int64_t rows, int64_t columns, int box_rows,
                            int box_columns = kTileColumns) {
    *out = {static_cast<const unsigned char*>(matrix), rows, columns, box_rows, box_columns / 8};
    return Status::kSuccess;
}

inline void copy_tile(void* target, const TileMap& map, int column, int row, uint64_t* barrier) {
    bring(barrier, static_cast<unsigned>(map.box_rows * map.pieces) * 16, [=] {
        for (int i = 0; i < map.box_rows * map.pieces; ++i) {
            const int at = i / map.pieces, swizzled = i % map.pieces ^ at * map.pieces / 8 % map.pieces;
            unsigned char* piece = static_cast<unsigned char*>(target) + (at * map.pieces + swizzled) * 16;
            const int64_t from_row = row + at, from = column + i % map.pieces * 8;
            std::memset(piece, 0, 16);
            if (from_row >= map.rows || from >= map.columns) continue;
            std::memcpy(piece, map.matrix + (from_row * map.columns + from) * 2, 16);
        }
    });
}

inline void prefetch_map(const TileMap&) {}

// Of the first of 64-element rows; adding to it goes along k in steps of 16 bytes.
struct EmulatedMatrix {
    const unsigned char* first;
    int piece = 0;
    EmulatedMatrix operator+(int pieces) const { return {first, piece + pieces}; }
    template <typename T>
    float at(int row, int k) const {
        T value;
        std::memcpy(&value, first + row * 128 + ((piece + k / 8) ^ row % 8) * 16 + k % 8 * 2, 2);
        return to_float(value);
    }
};

inline EmulatedMatrix swizzled_matrix(const void* pointer) { return {static_cast<const unsigned char*>(pointer)}; }

inline EmulatedMatrix along_k(EmulatedMatrix matrix, int pieces) { return matrix + pieces; }

inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int LEFT>
void wgmma_wait() {
    emulator::run_deferred();
    __syncwarp();  // .sync.aligned: what one lane says after it holds for all
}

template <typename T, int SIZE>
void wgmma(float (&d)[SIZE], EmulatedMatrix a, EmulatedMatrix b, bool adds) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
    emulator::defer([=, out = &d[0]] {
        for (int i = 0; i < SIZE; ++i) {
            const int row = warp * 16 + lane / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            float sum = adds ? out[i] : 0.0f;
            for (int k = 0; k < 16; ++k) sum += a.at<T>(row, k) * b.at<T>(column, k);
            out[i] = sum;
        }
    });
}

// The rows of a are in the registers of a warp's lanes, which are read when the product is made.
template <typename T, int SIZE>
void wgmma(float (&d)[SIZE], const unsigned (&a)[4], EmulatedMatrix b, bool adds) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const unsigned* quad[4];
    for (int q = 0; q < 4; ++q) quad[q] = __shfl_sync(0xffffffffu, &a[0], lane / 4 * 4 + q);
    emulator::defer([=, out = &d[0]] {
        float rows[2][16];
        for (int i = 0; i < 16; ++i) {
            const float2 two = unpack2<T>(quad[i % 4][i / 4]);
            float* to = rows[i / 4 % 2] + i % 4 * 2 + i / 8 * 8;
            to[0] = two.x, to[1] = two.y;
        }
        for (int i = 0; i < SIZE; ++i) {
            float sum = adds ? out[i] : 0.0f;
            for (int k = 0; k < 16; ++k) sum += rows[i % 4 / 2][k] * b.at<T>(i / 4 * 8 + lane % 4 * 2 + i % 2, k);
            out[i] = sum;
        }
    });
}

}  // namespace detail
}  // namespace aim_kernels
