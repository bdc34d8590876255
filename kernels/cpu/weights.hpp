// Packed weights (layouts: kernels.hpp, WeightView).
#pragma once

#include <cstdint>

#include "kernels.hpp"
#include "memory.hpp"
#include "thread_pool.hpp"

namespace ernie {

// Bfloat16 goes with Bfloat16 weights, Int16 and Int8 with quantized ones, StaticInt8 with Int4.
enum class Activation { Float32, Bfloat16, Int16, Int8, StaticInt8 };

struct PackedLinear {
    WeightKind kind;
    Activation activation;
    bool in_quads;
    bool is_narrow;
    int64_t outputs;
    int64_t inputs;
    int64_t panel;
    int64_t group;  // inputs per activation scale
    int64_t bytes;  // of data
    Memory data;
    Memory scales;
    Memory group_scales;    // in place of scales: one for kScaleGroup inputs
    float input_scale = 0;  // StaticInt8: of all inputs of all rows
    int64_t rotation = 0;   // StaticInt8: block of their Hadamard rotation; 0: none

    WeightView view() const;
    // At most `count` panels from `first` on, which is below their number.
    WeightView view(int64_t first, int64_t count) const;
};

// Of int8 and int4 codes: one of them.
struct WeightScales {
    const float* of_outputs = nullptr;    // [outputs]
    const uint16_t* of_groups = nullptr;  // bfloat16 [outputs][inputs / kScaleGroup]
};

// Packs `source` [outputs][inputs] by `kind`: float, bfloat16 bits, int8 codes, or two int4 codes per
// byte (each row in whole bytes, even inputs in the low nibbles).
PackedLinear pack_linear(const Kernels& kernels, WeightKind kind, Activation activation, int64_t outputs,
                         int64_t inputs, int64_t group, const void* source, const WeightScales& scales,
                         ThreadPool& pool);

}  // namespace ernie
