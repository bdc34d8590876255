// Products of bfloat16 matrices in the tile registers of AMX: 16 rows of 64 bytes each.
//
// TDPBF16PS (Intel's manual) adds the products of 16 pairs of inputs: the even ones in one float32 chain, the
// odd ones in another, and their sum to the result; denormals are zero. A row depends on no other row of its
// tile.
#pragma once

#include <immintrin.h>

#include "bfloat16_products.hpp"
#include "variant.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kTileInputs = 32;

// While an object lives, this thread's eight tiles are configured.
class TileRegisters {
  public:
    TileRegisters() {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int i = 0; i < 8; ++i) {
            config.row_bytes[i] = 64;
            config.rows[i] = kTileRows;
        }
        _tile_loadconfig(&config);
    }
    ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

// Tiles 0 to 3 += two row tiles at x (`x_stride` items apart from row to row) times two tiles of weights, 16
// outputs each: `steps` tiles deep. Rows of weights are `w_stride` items apart, tiles one after another in
// depth `w_step`.
template <bool kTwoRows, bool kTwoOutputs>
void multiply_tiles(const uint16_t* x, int64_t x_stride, const uint16_t* w0, const uint16_t* w1,
                    int64_t w_stride, int64_t w_step, int64_t steps) {
    for (int64_t step = 0; step < steps; ++step, x += kTileInputs, w0 += w_step, w1 += w_step) {
        _tile_loadd(4, x, size_t(2 * x_stride));
        _tile_loadd(6, w0, size_t(2 * w_stride));
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (kTwoOutputs) {
            _tile_loadd(7, w1, size_t(2 * w_stride));
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (kTwoRows) {
            _tile_loadd(5, x + kTileRows * x_stride, size_t(2 * x_stride));
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (kTwoOutputs) _tile_dpbf16ps(3, 5, 7);
        }
    }
}

// Tiles 0 to 3 to [32][stride] floats, 32 columns, or with one tile of rows to [16][stride], 64 columns.
template <int kRowTiles = 2>
void store_tiles(float* out, int64_t stride) {
    float* third = out + (kRowTiles == 2 ? kTileRows * stride : 2 * kTileRows);
    _tile_stored(0, out, size_t(4 * stride));
    _tile_stored(1, out + kTileRows, size_t(4 * stride));
    _tile_stored(2, third, size_t(4 * stride));
    _tile_stored(3, third + kTileRows, size_t(4 * stride));
}

inline void zero_tiles() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// Tiles 0 to 3 += a row tile at x times four tiles of weights, one tile deep.
inline void multiply_panel(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t w_stride) {
    constexpr int64_t kNext = 2 * kTileRows;
    const size_t bytes = size_t(2 * w_stride);
    _tile_loadd(4, x, size_t(2 * x_stride));
    _tile_loadd(5, w, bytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, w + kNext, bytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, w + 2 * kNext, bytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, w + 3 * kNext, bytes);
    _tile_dpbf16ps(3, 4, 5);
}

// Up to kRowTiles tiles of rows times a panel, or a half of it where they are two; writes `rows` rows of y with
// their bias.
template <int kRowTiles>
void linear_tiles(const LinearTask& task, int64_t panel, int64_t first, int64_t row, int64_t rows) {
    constexpr int64_t kWidth = kPanel<Avx512> / kRowTiles, w_stride = 2 * kPanel<Avx512>;
    const int64_t depth = task.rounded.stride, outputs = task.weight.outputs;
    const uint16_t* x = static_cast<const uint16_t*>(task.rounded.items) + row * depth;
    const uint16_t* w = static_cast<const uint16_t*>(task.weight.data) + panel * kPanel<Avx512> * depth;
    const bool is_in_memory = row == 0 && first % kPanel<Avx512> == 0;  // it brings the other half, too
    w += 2 * (first % kPanel<Avx512>);
    zero_tiles();
    for (int64_t k = 0; k < depth; k += kTileInputs, w += kTileRows * w_stride) {
        if (is_in_memory) prefetch_weights<2 * kTileInputs * kPanel<Avx512>>(w);
        if constexpr (kRowTiles == 2)
            multiply_tiles<true, true>(x + k, depth, w, w + kWidth, w_stride, 0, 1);
        else
            multiply_panel(x + k, depth, w, w_stride);
    }
    alignas(64) float sums[kRowTiles * kTileRows * kWidth];
    store_tiles<kRowTiles>(sums, kWidth);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < kWidth && first + i < outputs; i += Avx512::kLanes) {
            const int64_t left = outputs - first - i;
            Avx512 value = Avx512::load(sums + r * kWidth + i);
            if (task.bias) value = Avx512::add(value, load_partial<Avx512>(task.bias + first + i, left));
            store_partial(value, task.y + (row + r) * outputs + first + i, left);
        }
}

// A share is a run of panels, which stay in the second cache for all rows. Two tiles of rows meet all of them
// in turn, so that a row of results is written in one run: in other orders its pages are looked up again and
// again.
inline void amx_bfloat16_linear(const LinearTask& task, int part, int parts) {
    constexpr int64_t kRows = 2 * kTileRows, kHalf = kPanel<Avx512> / 2;
    const TileRegisters tiles;
    const Range range = share((task.weight.outputs + kPanel<Avx512> - 1) / kPanel<Avx512>, part, parts);
    for (int64_t row = 0; row < task.rows; row += kRows) {
        const int64_t count = row + kRows < task.rows ? kRows : task.rows - row;
        for (int64_t panel = range.begin; panel < range.end; ++panel) {
            const int64_t first = panel * kPanel<Avx512>;
            if (count <= kTileRows) {
                linear_tiles<1>(task, panel, first, row, count);
                continue;
            }
            linear_tiles<2>(task, panel, first, row, count);
            if (first + kHalf < task.weight.outputs) linear_tiles<2>(task, panel, first + kHalf, row, count);
        }
    }
}

// Rows to bfloat16; denormals become zero, as which products take them.
inline void amx_round_rows(const RoundTask& task, int part, int parts) {
    const Range range = share(task.rows, part, parts);
    const int64_t stride = task.rounded.stride;
    for (int64_t row = range.begin; row < range.end; ++row) {
        const float* x = task.x + row * task.width;
        uint16_t* items = static_cast<uint16_t*>(task.rounded.items) + row * stride;
        for (int64_t k = 0; k < stride; k += Avx512::kLanes) {
            const int64_t left = task.width - k;
            const Avx512 value = left > 0 ? load_partial<Avx512>(x + k, left) : Avx512::zero();
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(items + k),
                                reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value.v)));
        }
    }
}

}  // namespace ernie::ERNIE_VARIANT
