// The table of compute kernels that each instruction set fills, and the plain arguments that they take.
// Every kernel computes its share `part` of `parts` of one op; no share depends on another one of the same
// call. Kernels trust their arguments: ops.cpp checks them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention_task.hpp"

namespace ernie {

enum class WeightKind { Float32, Bfloat16, Int8, Int4 };

inline constexpr int64_t kStep = 8;  // inputs that quantized weights keep together; panels are padded to it

// Panels of `panel` outputs, padded with zeros:
//   Float32, Bfloat16: [panels][K][panel]
//   Int8:              [panels][K / kStep][kStep / 2][panel][2], inputs in pairs
//   Int4:              [panels][K / kStep][panel], words of eight codes + 8: inputs 0 2 4 6 1 3 5 7 from the
//                      lowest nibble, so that a shift and a mask leave a pair in the two halves of a word
struct WeightView {
    WeightKind kind;
    int64_t outputs;
    int64_t inputs;
    const void* data;
    const float* scales;  // [panels * panel], Int8 and Int4
};

// Where output `lane` and input k (below kStep) stand in a step: bytes of Int8, nibbles of Int4.
static constexpr int64_t int8_offset(int64_t panel, int64_t lane, int64_t k) {
    return (k / 2 * panel + lane) * 2 + k % 2;
}
static constexpr int64_t int4_offset(int64_t lane, int64_t k) { return lane * kStep + k / 2 + k % 2 * 4; }

// Quantized rows: codes [rows][stride], stride a multiple of kStep, zero behind the last input; scales
// [rows][groups].
struct QuantizedRows {
    int16_t* codes;  // null: the weight is multiplied by the float rows
    float* scales;
    int64_t stride;
    int64_t groups;
    int64_t group;  // inputs per scale, a multiple of kStep
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
    float levels;  // the largest code
    QuantizedRows quantized;
};

inline constexpr int64_t kLargestRotation = 1024;

// int8 codes of one scale for all rows, which have one group each.
struct StaticQuantizeTask {
    const float* x;
    int64_t rows;
    int64_t width;
    float scale;
    int64_t rotation;  // block of the Hadamard rotation, a divisor of width; 0: none
    float factor;      // 1 / sqrt(rotation)
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

constexpr int32_t kElsewhere = -1;  // a token whose row another rank has: zeros here

struct EmbedTask {
    WeightView table;
    const int32_t* token_ids;
    float* y;
    int64_t rows;
};

struct ChoiceTask {
    const float* logits;  // [rows][stride], the first `width` of each count
    int64_t rows;
    int64_t width;
    int64_t stride;
    const float* temperatures;  // [rows]
    const float* min_p;         // [rows]
    const int64_t* top_k;       // [rows]
    const double* top_p;        // [rows]
    const double* numbers;      // [rows]
    float* weights;             // scratch [parts][2][width]
    int64_t* tokens;            // [rows]
};

struct Kernels {
    const char* name;
    int64_t panel;  // outputs per panel
    void (*linear)(const LinearTask&, int part, int parts);
    void (*quantize)(const QuantizeTask&, int part, int parts);
    void (*quantize_static)(const StaticQuantizeTask&, int part, int parts);
    void (*norm)(const NormTask&, int part, int parts);
    void (*swiglu)(const SwigluTask&, int part, int parts);
    void (*embed)(const EmbedTask&, int part, int parts);
    void (*append)(const AttentionTask&, int part, int parts);
    void (*attend)(const AttentionTask&, int part, int parts);
    void (*join)(const AttentionTask&, int part, int parts);
    void (*choose)(const ChoiceTask&, int part, int parts);
};

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VnniKernels;
extern const Kernels kAvx512LoweredKernels;

}  // namespace ernie
