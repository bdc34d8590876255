// The table of compute kernels that each instruction set fills, and the plain arguments that they take.
// Every kernel computes its share `part` of `parts` of one op; no share depends on another one of the same
// call. Kernels trust their arguments: ops.cpp checks them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ernie {

enum class WeightKind { Float32, Bfloat16, Int8, Int8Dot };

// Panels of `panel` outputs, the last one padded with zeros:
//   Float32, Bfloat16, Int8: [panels][K][panel]        (Int8 codes are widened to float in the kernel)
//   Int8Dot:                 [panels][K4 / 4][panel][4]  (K4 = K rounded up to 4; integer dot products)
struct WeightView {
    WeightKind kind;
    int64_t outputs;
    int64_t inputs;
    const void* data;
    const float* scales;  // [panels * panel], Int8 and Int8Dot
};

// Quantized rows: codes [rows][stride], stride a multiple of 4; scales [rows][groups].
struct QuantizedRows {
    int8_t* high;
    int8_t* low;  // null for int8 activations
    float* scales;
    int64_t stride;
    int64_t groups;
    int64_t group;  // inputs per scale
};

struct LinearTask {
    WeightView weight;
    const float* x;  // [rows][inputs]
    QuantizedRows quantized;
    float* y;  // [rows][outputs]
    int64_t rows;
};

struct QuantizeTask {
    const float* x;
    int64_t rows;
    int64_t width;
    QuantizedRows quantized;
};

struct NormTask {
    const float* x;
    const float* delta;  // null: plain norm
    const float* weight;
    float* residual;  // x + delta, where delta is given
    float* y;
    int64_t rows;
    int64_t width;
    float epsilon;
};

struct SwigluTask {
    const float* gate_up;  // [rows][2 * width]
    float* y;              // [rows][width]
    int64_t rows;
    int64_t width;
};

struct EmbedTask {
    WeightView table;
    const int32_t* token_ids;
    float* y;
    int64_t rows;
};

// Cache rows are padded to `stride` values (head_dim rounded up to 16) that are zero beyond head_dim:
// [num_blocks][block_size][kv_heads][stride], once for keys and once for values.
struct AttentionTask {
    const float* qkv;
    const float* cosines;  // [max_positions][head_dim / 2]
    const float* sines;
    bool interleaved;
    bool is_bfloat16;
    void* keys;
    void* values;
    float* queries;  // scratch [rows][heads][stride]
    float* y;        // [rows][heads * head_dim]
    float* scratch;  // per part: attention_scratch floats
    const int32_t* positions;
    const int32_t* row_sequences;  // [rows]
    const int32_t* row_slots;      // [rows] index of the row's token in its sequence's cache
    const int32_t* block_tables;
    int64_t table_width;
    int64_t block_size;
    int64_t rows;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t stride;
};

inline constexpr int64_t kHeadTile = 4;  // query heads that share one pass over keys and values
inline constexpr int64_t kKeyTile = 64;  // keys per step of the online softmax, from position 0

struct Kernels {
    const char* name;
    int64_t panel;  // outputs per panel
    void (*linear)(const LinearTask&, int part, int parts);
    void (*quantize)(const QuantizeTask&, int part, int parts);
    void (*norm)(const NormTask&, int part, int parts);
    void (*swiglu)(const SwigluTask&, int part, int parts);
    void (*embed)(const EmbedTask&, int part, int parts);
    void (*append)(const AttentionTask&, int part, int parts);
    void (*attend)(const AttentionTask&, int part, int parts);
};

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512LoweredKernels;

}  // namespace ernie
