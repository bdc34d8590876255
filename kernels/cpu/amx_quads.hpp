// Products of codes and weights in quads (quads.hpp) in the tile registers of AMX, for more than a few rows:
// integer sums are exact and the float steps those of quad_tile, so the bits are the same. The codes are int8
// ones with one scale for all inputs (w4a8), or the halves of int16 ones. With a scale for every 32 inputs
// (int8) tiles are no faster than vpdpbusd: they are stored and added up too often.
#pragma once

#include <vector>

#include "amx.hpp"
#include "quad_linear.hpp"

namespace ernie::ERNIE_VARIANT {

inline constexpr int64_t kLeastTileRows = 12;   // fewer are faster without tiles
inline constexpr int64_t kLeastHalvedRows = 5;  // the same of rows of two halves
inline constexpr int64_t kTileBytes = 64;       // of a row of a tile
inline constexpr int64_t kTileSums = kTileRows * Avx512::kLanes;
inline constexpr int64_t kWeightTileBytes = kTileRows * kTileBytes;  // kTileBytes inputs of a narrow panel

// Quads in panels of 16 outputs, as tiles hold them. Of wider panels two tiles would meet half of the first
// cache's sets only, and drive each other out.
struct AmxQuads : Avx512VnniQuads {
    static constexpr bool kIsNarrow = true;
    static Sums add(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
};

// Tiles 0 to 3 to [4][16][16].
inline void store_sums(int32_t* sums) {
    _tile_stored(0, sums, kTileBytes);
    _tile_stored(1, sums + kTileSums, kTileBytes);
    _tile_stored(2, sums + 2 * kTileSums, kTileBytes);
    _tile_stored(3, sums + 3 * kTileSums, kTileBytes);
}

// Asks for the weights that follow in kPanels panels, which are `panel_bytes` apart and have `left` inputs
// left.
template <int kPanels>
void prefetch_tiles(const int8_t* w, int64_t panel_bytes, int64_t left) {
    constexpr int64_t kAhead = kAheadBytes / (kPanels * kWeightTileBytes);
    w += kAhead * kWeightTileBytes;
    if (left <= kAhead * kTileBytes) w += (kPanels - 1) * panel_bytes;  // on to the panels after these
    for (int i = 0; i < kPanels; ++i, w += panel_bytes)
        for (int64_t line = 0; line < kWeightTileBytes; line += kTileBytes) __builtin_prefetch(w + line, 0, 2);
}

// Tiles 0 to 3 += kTileBytes codes at x times bytes at w: kRowTiles tiles of rows times panels, the others. The
// weights are loaded past the first cache, where the rows stay for all of them.
template <int kRowTiles>
void multiply_quads(const int8_t* x, int64_t stride, const int8_t* w, int64_t panel_bytes) {
    _tile_loadd(4, x, size_t(stride));
    _tile_stream_loadd(6, w, kTileBytes);
    _tile_dpbsud(0, 4, 6);
    _tile_stream_loadd(7, w + panel_bytes, kTileBytes);
    _tile_dpbsud(1, 4, 7);
    if constexpr (kRowTiles == 2) {
        _tile_loadd(5, x + kTileRows * stride, size_t(stride));
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    } else {
        _tile_stream_loadd(6, w + 2 * panel_bytes, kTileBytes);
        _tile_dpbsud(2, 4, 6);
        _tile_stream_loadd(7, w + 3 * panel_bytes, kTileBytes);
        _tile_dpbsud(3, 4, 7);
    }
}

// `rows` rows, in one or two tiles, times the outputs from `output` on, in the other tiles; their bytes are at
// w.
template <int kRowTiles>
void quad_block(const LinearTask& task, const int8_t* w, int64_t output, int64_t row, int64_t rows) {
    constexpr int kOutputTiles = 4 / kRowTiles;
    const QuantizedRows& q = task.quantized;
    const bool is_in_memory = row == 0 && task.weight.kind == WeightKind::Int8;
    const int8_t* x = static_cast<const int8_t*>(q.codes) + row * q.stride;
    zero_tiles();
    for (int64_t k = 0; k < q.stride; k += kTileBytes, w += kWeightTileBytes) {
        if (is_in_memory) prefetch_tiles<kOutputTiles>(w, q.stride * Avx512::kLanes, q.stride - k);
        multiply_quads<kRowTiles>(x + k, q.stride, w, q.stride * Avx512::kLanes);
    }
    alignas(64) int32_t sums[4 * kTileSums];
    store_sums(sums);
    const int32_t offset = offset_of(task.weight.kind == WeightKind::Int8 ? 8 : 4);
    const float* bias = task.bias ? task.bias + output : nullptr;
    for (int64_t r = 0; r < rows; ++r) {
        const __m512i excess = _mm512_set1_epi32(offset * q.sums[row + r]);
        const Avx512 scale = Avx512::set(q.scales[row + r]);
        const int32_t* tile = sums + r / kTileRows * kOutputTiles * kTileSums + r % kTileRows * Avx512::kLanes;
        Avx512 values[kOutputTiles];
        for (int i = 0; i < kOutputTiles; ++i) {
            const __m512i exact = _mm512_sub_epi32(_mm512_load_si512(tile + i * kTileSums), excess);
            values[i] = Avx512::fma(Avx512VnniQuads::to_float(exact), scale, Avx512::zero());
        }
        store_outputs(values, task.weight.scales + output, bias,
                      task.y + (row + r) * task.weight.outputs + output, task.weight.outputs - output);
    }
}

// Products of codes of one byte.
class QuadProduct {
  public:
    static constexpr int64_t kRows = 2 * kTileRows;

    explicit QuadProduct(const LinearTask& task) : task_(task) {}

    // At most kRows rows times a panel, whose bytes are at w.
    void multiply(const int8_t* w, int64_t output, int64_t row, int64_t rows) {
        if (rows <= kTileRows) return quad_block<1>(task_, w, output, row, rows);
        constexpr int64_t kHalf = 2 * Avx512::kLanes;
        quad_block<2>(task_, w, output, row, rows);
        if (output + kHalf < task_.weight.outputs)
            quad_block<2>(task_, w + kHalf * task_.quantized.stride, output + kHalf, row, rows);
    }

    void finish() {}

  private:
    const LinearTask& task_;
};

// Products of halves: 16 rows, two tiles, times two tiles of outputs at a time. While tiles multiply a group of
// such a block, the sums of the group before are joined and scaled, a row between two steps: tiles and vector
// units work side by side. So a block is complete only after the next one, or after finish().
class HalvedProduct {
  public:
    static constexpr int64_t kRows = kTileRows;

    explicit HalvedProduct(const LinearTask& task)
        : task_(task), offset_(offset_of(task.weight.kind == WeightKind::Int8 ? 8 : 4)) {}

    // At most kRows rows times a panel, whose bytes are at w.
    void multiply(const int8_t* w, int64_t output, int64_t row, int64_t rows) {
        for (int64_t first = output; first < output + kPanel<Avx512> && first < task_.weight.outputs;
             first += kOutputs, w += kOutputs * task_.quantized.stride)
            for (int64_t g = 0; g < task_.quantized.groups; ++g) multiply_group(w, {first, row, rows, g});
    }

    void finish() {
        while (next_ < waiting_.rows) scale_row(next_++);
    }

  private:
    static constexpr int kTiles = 2;  // of outputs
    static constexpr int64_t kOutputs = kTiles * Avx512::kLanes;
    struct Block {
        int64_t output, row, rows, group;
    };

    void multiply_group(const int8_t* w, const Block& block) {
        const QuantizedRows& q = task_.quantized;
        const int64_t start = block.group * q.group, left = q.stride - start;
        const int8_t* x = static_cast<const int8_t*>(q.codes) + 2 * block.row * q.stride + start;
        const int64_t panel_bytes = q.stride * Avx512::kLanes;
        const bool is_in_memory = block.row == 0 && task_.weight.kind == WeightKind::Int8;
        w += start * Avx512::kLanes;
        zero_tiles();
        for (int64_t k = 0; k < q.group && k < left; k += kTileBytes, w += kWeightTileBytes) {
            if (is_in_memory) prefetch_tiles<kTiles>(w, panel_bytes, left - k);
            multiply_quads<2>(x + k, q.stride, w, panel_bytes);
            if (next_ < waiting_.rows) scale_row(next_++);
        }
        finish();
        store_sums(sums_);
        waiting_ = block;
        next_ = 0;
    }

    void scale_row(int64_t r) {
        const QuantizedRows& q = task_.quantized;
        const int64_t place = (waiting_.row + r) * q.groups + waiting_.group;
        const __m512i excess = _mm512_set1_epi32(offset_ * q.sums[place]);
        const Avx512 scale = Avx512::set(q.scales[place]);
        const int32_t* high = sums_ + r / 8 * kTiles * kTileSums + r % 8 * 2 * Avx512::kLanes;
        for (int i = 0; i < kTiles; ++i, high += kTileSums) {
            const __m512i both =
                Avx512VnniQuads::join(_mm512_load_si512(high), _mm512_load_si512(high + Avx512::kLanes));
            const Avx512 before = waiting_.group ? totals_[r][i] : Avx512::zero();
            totals_[r][i] =
                Avx512::fma(Avx512VnniQuads::to_float(_mm512_sub_epi32(both, excess)), scale, before);
        }
        if (waiting_.group == q.groups - 1) store_row(r);
    }

    void store_row(int64_t r) {
        const WeightView& weight = task_.weight;
        float* y = task_.y + (waiting_.row + r) * weight.outputs;
        for (int i = 0; i < kTiles; ++i) {
            const int64_t first = waiting_.output + i * Avx512::kLanes, left = weight.outputs - first;
            const __mmask16 is_output = left >= Avx512::kLanes ? 0xFFFF : left > 0 ? (1 << left) - 1 : 0;
            Avx512 value = Avx512::mul(totals_[r][i], Avx512::load(weight.scales + first));
            if (task_.bias)
                value.v = _mm512_add_ps(value.v, _mm512_maskz_loadu_ps(is_output, task_.bias + first));
            _mm512_mask_storeu_ps(y + first, is_output, value.v);
        }
    }

    alignas(64) int32_t sums_[4 * kTileSums];
    Avx512 totals_[kTileRows][kTiles];  // of the groups so far
    const LinearTask& task_;
    const int32_t offset_;
    Block waiting_{};
    int64_t next_ = 0;  // row of the waiting block to be scaled
};

struct alignas(64) TileRow {
    int8_t bytes[kTileBytes];
};

// The bytes [4][K / 4][16][4] of a panel of int4 words, in memory of this thread until the next call.
inline const int8_t* widened_panel(const int8_t* words, int64_t depth, bool is_in_memory) {
    thread_local std::vector<TileRow> widened;
    const int64_t rows = kRegisters<Avx512> * depth / 4;
    if (int64_t(widened.size()) < rows) widened.resize(size_t(rows));
    for (int64_t row = 0; row < rows; row += 2, words += kTileBytes) {
        if (is_in_memory) prefetch_weights<kTileBytes>(words);
        _mm512_store_si512(widened[size_t(row)].bytes, Avx512VnniQuads::load_int4(words, 0));
        _mm512_store_si512(widened[size_t(row + 1)].bytes, Avx512VnniQuads::load_int4(words, 1));
    }
    return widened[0].bytes;
}

// A share is a run of panels, as in amx_bfloat16_linear. Int4 ones are widened once for more rows.
template <typename Product>
void amx_quad_linear(const LinearTask& task, int part, int parts) {
    constexpr int64_t kRows = Product::kRows;
    const bool is_int4 = task.weight.kind == WeightKind::Int4;
    const int64_t block = is_int4 ? 4 * kRows : kRows, depth = task.quantized.stride;
    const int64_t panel_bytes = depth * kPanel<Avx512> / (is_int4 ? 2 : 1);
    const TileRegisters tiles;
    Product product(task);
    const Range range = share((task.weight.outputs + kPanel<Avx512> - 1) / kPanel<Avx512>, part, parts);
    for (int64_t start = 0; start < task.rows; start += block) {
        const int64_t end = start + block < task.rows ? start + block : task.rows;
        for (int64_t panel = range.begin; panel < range.end; ++panel) {
            const int8_t* w = static_cast<const int8_t*>(task.weight.data) + panel * panel_bytes;
            if (is_int4) w = widened_panel(w, depth, start == 0);
            for (int64_t row = start; row < end; row += kRows)
                product.multiply(w, panel * kPanel<Avx512>, row, row + kRows < end ? kRows : end - row);
        }
    }
    product.finish();
}

inline void amx_linear(const LinearTask& task, int part, int parts) {
    if (task.rounded.items) return amx_bfloat16_linear(task, part, parts);
    const QuantizedRows& q = task.quantized;
    if (task.weight.in_quads && !task.weight.is_narrow) return quad_linear<Avx512VnniQuads>(task, part, parts);
    if (task.weight.in_quads && !task.weight.group_scales) {
        if (q.halves == 2 && q.group % kTileBytes == 0 && task.rows >= kLeastHalvedRows)
            return amx_quad_linear<HalvedProduct>(task, part, parts);
        if (q.halves == 1 && q.groups == 1 && task.rows >= kLeastTileRows)
            return amx_quad_linear<QuadProduct>(task, part, parts);
    }
    linear<Avx512VnniDots, Avx512Bf16Pairs, AmxQuads>(task, part, parts);
}

}  // namespace ernie::ERNIE_VARIANT
