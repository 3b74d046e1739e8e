// The instructions of mma.cuh, by the layouts that its first comment states.
#pragma once

namespace aim_kernels {
namespace detail {

struct EmulatedLoad {
    const void* row;
    unsigned* out;
};

template <bool TRANS>
void ldmatrix_together(void* const* arguments) {
    for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t elements[8][8];
        for (int row = 0; row < 8; ++row) {
            const void* from = static_cast<const EmulatedLoad*>(arguments[matrix * 8 + row])->row;
            std::memcpy(elements[row], from, 16);
        }
        for (int lane = 0; lane < 32; ++lane) {
            uint16_t pair[2];
            for (int i = 0; i < 2; ++i) {
                const int row = lane / 4, col = 2 * (lane % 4) + i;
                pair[i] = TRANS ? elements[col][row] : elements[row][col];
            }
            std::memcpy(&static_cast<EmulatedLoad*>(arguments[lane])->out[matrix], pair, 4);
        }
    }
}

inline void ldmatrix(unsigned (&out)[4], const void* row) {
    EmulatedLoad load = {row, out};
    emulator::warp_collective(&load, ldmatrix_together<false>);
}

inline void ldmatrix_trans(unsigned (&out)[4], const void* row) {
    EmulatedLoad load = {row, out};
    emulator::warp_collective(&load, ldmatrix_together<true>);
}

struct EmulatedStore {
    unsigned char* row;
    const unsigned* v;
};

inline void store_matrices_together(void* const* arguments) {
    for (int lane = 0; lane < 32; ++lane) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            unsigned char* row = static_cast<EmulatedStore*>(arguments[matrix * 8 + lane / 4])->row;
            std::memcpy(row + lane % 4 * 4, &static_cast<EmulatedStore*>(arguments[lane])->v[matrix], 4);
        }
    }
}

inline void store_matrices(void* row, const unsigned (&v)[4]) {
    EmulatedStore store = {static_cast<unsigned char*>(row), v};
    emulator::warp_collective(&store, store_matrices_together);
}

inline unsigned transpose8x8(unsigned pair) {
    const int row = static_cast<int>(threadIdx.x) % 32 / 4, column = static_cast<int>(threadIdx.x) % 4 * 2;
    unsigned result = 0;
    for (int i = 0; i < 2; ++i) {
        const unsigned from = __shfl_sync(0xffffffffu, pair, (column + i) * 4 + row / 2);
        result |= (from >> row % 2 * 16 & 0xffff) << i * 16;
    }
    return result;
}

struct EmulatedProduct {
    float* c;
    const unsigned* a;
    unsigned b[2];
};

template <typename T>
void mma_together(void* const* arguments) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto* product = static_cast<const EmulatedProduct*>(arguments[lane]);
        const int g = lane / 4, q = lane % 4;
        for (int i = 0; i < 4; ++i) {
            const float2 two = unpack2<T>(product->a[i]);
            a[g + i % 2 * 8][2 * q + i / 2 * 8] = two.x;
            a[g + i % 2 * 8][2 * q + i / 2 * 8 + 1] = two.y;
        }
        for (int i = 0; i < 2; ++i) {
            const float2 two = unpack2<T>(product->b[i]);
            b[2 * q + 8 * i][g] = two.x;
            b[2 * q + 8 * i + 1][g] = two.y;
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        auto* product = static_cast<EmulatedProduct*>(arguments[lane]);
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, col = 2 * (lane % 4) + i % 2;
            float sum = product->c[i];
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][col];
            product->c[i] = sum;
        }
    }
}

template <typename T>
void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    EmulatedProduct product = {c, a, {b0, b1}};
    emulator::warp_collective(&product, mma_together<T>);
}

inline void copy_async(void* target, const void* source, bool inside) {
    const auto copy = [=] {
        if (inside) {
            std::memcpy(target, source, 16);
        } else {
            std::memset(target, 0, 16);
        }
    };
    if (emulator::coin()) {
        copy();
    } else {
        emulator::defer(copy);
    }
}

inline int opaque(int value) { return value; }

inline void close_copies() {}

template <int LEFT>
void wait_for_all_but() { emulator::run_deferred(); }

inline void wait_for_copies() { emulator::run_deferred(); }

}  // namespace detail
}  // namespace aim_kernels
