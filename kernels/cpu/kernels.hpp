// The table of compute kernels that each instruction set fills, and the plain arguments that they take.
// Every kernel computes its share `part` of `parts` of one op; no share depends on another one of the same
// call. Kernels trust their arguments: ops.cpp checks them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention_task.hpp"

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
    void (*join)(const AttentionTask&, int part, int parts);
};

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512LoweredKernels;

}  // namespace ernie
