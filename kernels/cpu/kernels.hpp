// The table of compute kernels that each instruction set fills, and the plain arguments that they take.
// A kernel that takes `part` and `parts` computes that share of one op; no share depends on another of the same
// call. Kernels trust their arguments: Ops checks them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention_task.hpp"
#include "patch_task.hpp"

namespace ernie {

enum class WeightKind { Float32, Bfloat16, Int8, Int4 };

inline constexpr int64_t kStep = 8;         // inputs that quantized weights keep together
inline constexpr int64_t kDepth = 32;       // bfloat16 ones: a tile of AMX
inline constexpr int64_t kQuadDepth = 64;   // and quantized ones in quads: a tile of AMX
inline constexpr int64_t kScaleGroup = 64;  // inputs of a group that has scales of its own
inline constexpr int32_t kByteOffset = 128, kNibbleOffset = 8;
// Inputs that share an activation scale. The integer sums of a group stay below 2 ** 31: 1024 * 127 * 127 *
// 128, or 1024 * 255 * 127 with an offset. With both, they wrap around on their way there.
inline constexpr int64_t kLargestGroup = 1024;

// Panels of `panel` outputs:
//   Float32:         [panels][K][panel]
//   Bfloat16, Int8:  [panels][K / 2][panel][2], inputs in pairs
//   Int4:            [panels][K / kStep][panel], words of eight codes + 8: inputs 0 2 4 6 1 3 5 7 from the
//                    lowest nibble, so that a shift and a mask leave a pair in the two halves of a word
// or, where codes of one byte or of two meet them, in quads, whose panels may have fewer outputs (Kernels):
//   Int8:            [panels][K / 4][panel][4], codes + 128
//   Int4:            [panels][K / kStep][panel], words of eight codes + 8: inputs 0 4 1 5 2 6 3 7 from the
//                    lowest nibble, so that a shift and a mask leave a quad in the four bytes of a word
// K is padded to a multiple of inputs_together; what pads meets activations of zero.
struct WeightView {
    WeightKind kind;
    bool in_quads;
    bool is_narrow;  // in panels of quad_panel outputs
    int64_t outputs;
    int64_t inputs;
    const void* data;
    const float* scales;           // [panels * panel], Int8 and Int4 unless they have group_scales
    const uint16_t* group_scales;  // bfloat16 [panels][groups_of(K)][panel], Int4; or null
};

static constexpr int64_t groups_of(int64_t inputs) { return (inputs + kScaleGroup - 1) / kScaleGroup; }

static constexpr int64_t inputs_together(WeightKind kind, bool in_quads) {
    if (in_quads) return kQuadDepth;
    if (kind == WeightKind::Float32) return 1;
    return kind == WeightKind::Bfloat16 ? kDepth : kStep;
}

// Where output `lane` and input k are: items of a panel in pairs or quads; nibbles of a step of Int4, k below
// kStep, in pairs or quads.
static constexpr int64_t pair_offset(int64_t panel, int64_t lane, int64_t k) {
    return (k / 2 * panel + lane) * 2 + k % 2;
}
static constexpr int64_t quad_offset(int64_t panel, int64_t lane, int64_t k) {
    return (k / 4 * panel + lane) * 4 + k % 4;
}
static constexpr int64_t pair_nibble(int64_t lane, int64_t k) { return lane * kStep + k / 2 + k % 2 * 4; }
static constexpr int64_t quad_nibble(int64_t lane, int64_t k) { return lane * kStep + k % 4 * 2 + k / 4; }

// Quantized rows: codes [rows][stride], zero behind the last input; scales and sums [rows][groups]. For weights
// in quads codes are bytes [rows][halves][stride], with the sum of each group; an int16 code has two halves,
// high * 128 + low. For others codes are int16. The stride is a multiple of inputs_together. Memory behind
// bytes can be read, up to a multiple of kRowsTogether.
struct QuantizedRows {
    void* codes;  // null: the rows are not quantized
    float* scales;
    int32_t* sums;  // null: the weights are in pairs
    int64_t stride;
    int64_t groups;
    int64_t group;  // inputs per scale, a multiple of kDepth
    int64_t halves;
};

// Rows rounded to bfloat16: [rows][stride], stride a multiple of kDepth, zero behind the last input; an item is
// what the instruction set multiplies, at most kLargestItem bytes (bfloat16_products.hpp). Memory behind the
// rows can be read, up to a multiple of kRowsTogether.
inline constexpr int64_t kRowsTogether = 32;
inline constexpr int64_t kLargestItem = sizeof(float);
struct RoundedRows {
    void* items;  // null: the rows are not rounded
    int64_t stride;
};

struct LinearTask {
    WeightView weight;
    const float* x;  // [rows][inputs]
    QuantizedRows quantized;
    RoundedRows rounded;
    float* y;  // [rows][outputs]
    int64_t rows;
    const float* bias;  // [outputs], or null
};

struct QuantizeTask {
    const float* x;
    int64_t rows;
    int64_t width;
    float levels;  // the largest code
    QuantizedRows quantized;
};

struct RoundTask {
    const float* x;
    int64_t rows;
    int64_t width;
    RoundedRows rounded;
};

inline constexpr int64_t kLargestRotation = 1024;

// int8 codes of one scale for all rows, which have one group each.
struct StaticQuantizeTask {
    const float* x;
    int64_t rows;
    int64_t width;
    float scale;
    int64_t rotation;  // block of the Hadamard rotation, a divisor of width; 0: none
    QuantizedRows quantized;
};

struct NormTask {
    const float* x;
    const float* delta;  // null: plain norm
    const float* weight;
    const float* bias;  // null: RMSNorm; else LayerNorm
    float* residual;    // x + delta, where delta is given
    float* y;
    int64_t rows;
    int64_t width;
    float epsilon;
};

struct SwigluTask {
    const float* gate;  // [rows][gate_stride], of which the first `width` count
    int64_t gate_stride;
    const float* up;  // [rows][up_stride], the same
    int64_t up_stride;
    float* y;  // [rows][stride], the same
    int64_t stride;
    int64_t rows;
    int64_t width;
};

enum class GeluKind { Erf, Tanh, Quick };

// x becomes its gelu.
struct GeluTask {
    float* x;
    int64_t count;
    GeluKind kind;
};

constexpr int32_t kElsewhere = -1;  // a token whose row another rank has: zeros here

struct EmbedTask {
    WeightView table;
    const int32_t* token_ids;
    float* y;
    int64_t rows;
};

// How a row of logits is sampled; its NumPy type is in ernie_kernels/sampling.py.
struct SamplingRow {
    static constexpr char kFormat[] = "T{f:temperature:f:min_p:l:top_k:d:top_p:d:uniform:}";
    float temperature, min_p;
    int64_t top_k;
    double top_p, uniform;
};

struct SamplingTask {
    const float* logits;       // [rows][width]
    const SamplingRow* batch;  // [rows]
    int64_t rows;
    int64_t width;
    float* weights;   // scratch [parts][2][width]
    int64_t* tokens;  // [rows]
};

// The largest logit of a row, of equals the first; NaN if there is one.
struct BestColumn {
    float value;
    int64_t column;
};

// Raises the best columns of some rows to those of a slice of the logits.
struct BestTask {
    const float* logits;  // [rows][stride]
    int64_t stride;
    int64_t columns;  // that count
    int64_t first;    // column of the vocabulary
    const int32_t* rows;
    int64_t count;
    BestColumn* best;  // [count], of the columns before these
};

// Rows of logits whose excluded columns become -infinity. Those without a bit are excluded.
struct MaskTask {
    float* logits;          // [rows][width]
    const uint32_t* masks;  // [count][words]
    const int64_t* rows;    // [count], each once
    int64_t count;
    int64_t width;
    int64_t words;
};

struct Kernels {
    const char* name;
    int64_t panel;  // outputs per panel
    int64_t
        quad_panel;  // of weights in quads, unless int8 codes with many scales meet them: a divisor of panel
    bool has_int8_in_quads;   // whether int8 weights are, where int8 codes meet them; int4 ones always
    bool has_int16_in_quads;  // whether all quantized weights are, where int16 codes meet them
    void (*linear)(const LinearTask&, int part, int parts);
    void (*quantize)(const QuantizeTask&, int part, int parts);
    void (*round)(const RoundTask&, int part, int parts);
    void (*quantize_static)(const StaticQuantizeTask&, int part, int parts);
    void (*norm)(const NormTask&, int part, int parts);
    void (*swiglu)(const SwigluTask&);
    void (*gelu)(const GeluTask&, int part, int parts);
    void (*embed)(const EmbedTask&, int part, int parts);
    void (*append_patches)(const PatchAppendTask&, int part, int parts);
    void (*attend_patches)(const PatchAttentionTask&, int part, int parts);
    void (*append)(const AttentionTask&, int part, int parts);
    void (*attend)(const AttentionTask&, int part, int parts);
    void (*join)(const AttentionTask&, int part, int parts);
    void (*sample)(const SamplingTask&, int part, int parts);
    void (*best)(const BestTask&);
    void (*mask)(const MaskTask&, int part, int parts);
};

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx2VnniKernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VnniKernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAvx512AmxKernels;
extern const Kernels kAvx512LoweredKernels;

}  // namespace ernie
