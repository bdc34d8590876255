#include "weights.hpp"

#include <algorithm>
#include <cstring>

namespace ernie {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

int64_t bits_of(WeightKind kind) {
    switch (kind) {
        case WeightKind::Float32:
            return 32;
        case WeightKind::Bfloat16:
            return 16;
        case WeightKind::Int8:
            return 8;
        case WeightKind::Int4:
            return 4;
    }
    return 0;
}

constexpr int64_t kPackBlock = 64;  // inputs per pass, so that the target stays in the first cache

// A panel of floats: target[k][lane] = source[lane][k].
void pack_floats(const float* source, float* target, int64_t lanes, int64_t inputs, int64_t panel) {
    for (int64_t start = 0; start < inputs; start += kPackBlock) {
        const int64_t end = std::min(inputs, start + kPackBlock);
        for (int64_t lane = 0; lane < lanes; ++lane)
            for (int64_t k = start; k < end; ++k) target[k * panel + lane] = source[lane * inputs + k];
    }
}

// A panel of pairs: target[k / 2][lane][k % 2] = source[lane][k].
template <typename T>
void pack_pairs(const T* source, T* target, int64_t lanes, int64_t inputs, int64_t panel) {
    for (int64_t start = 0; start < inputs; start += kPackBlock) {
        const int64_t end = std::min(inputs, start + kPackBlock);
        for (int64_t lane = 0; lane < lanes; ++lane)
            for (int64_t k = start; k < end; ++k)
                target[pair_offset(panel, lane, k)] = source[lane * inputs + k];
    }
}

// Eight nibbles of a word, even ones to the lower half.
uint32_t split_nibbles(uint32_t word) {
    const auto together = [](uint32_t bytes) {  // the low nibbles of four bytes to 16 bits
        bytes = (bytes | bytes >> 4) & 0x00FF00FF;
        return (bytes | bytes >> 8) & 0xFFFF;
    };
    return together(word & 0x0F0F0F0F) | together(word >> 4 & 0x0F0F0F0F) << 16;
}

// Source rows hold two codes per byte, even k in the low nibble; the target holds code + 8 in words of kStep
// inputs, in the order of int4_offset.
void pack_int4(const uint8_t* source, uint8_t* target, int64_t lanes, int64_t inputs, int64_t panel) {
    const int64_t row_bytes = (inputs + 1) / 2;
    const uint32_t offsets = 0x88888888;
    for (int64_t start = 0; start < row_bytes; start += kStep / 2, target += panel * kStep / 2)
        for (int64_t lane = 0; lane < panel; ++lane) {
            const uint8_t* from = source + lane * row_bytes + start;
            uint32_t word = 0;
            if (lane < lanes && start + kStep / 2 <= row_bytes)
                std::memcpy(&word, from, sizeof word);
            else if (lane < lanes)
                std::memcpy(&word, from, size_t(row_bytes - start));
            word = split_nibbles(word) ^ offsets;
            std::memcpy(target + lane * kStep / 2, &word, sizeof word);
        }
}

void pack_panels(const PackedLinear& packed, const void* source, int part, int parts) {
    const int64_t panel = packed.panel, inputs = packed.inputs;
    const int64_t panels = round_up(packed.outputs, panel) / panel;
    const int64_t panel_bytes = packed.bytes / panels;
    const int64_t row_bytes = (inputs * bits_of(packed.kind) + 7) / 8;
    for (int64_t p = panels * part / parts; p < panels * (part + 1) / parts; ++p) {
        const void* from = static_cast<const char*>(source) + p * panel * row_bytes;
        void* to = static_cast<char*>(packed.data.get()) + p * panel_bytes;
        const int64_t lanes = std::min(panel, packed.outputs - p * panel);
        if (packed.kind == WeightKind::Float32)
            pack_floats(static_cast<const float*>(from), static_cast<float*>(to), lanes, inputs, panel);
        else if (packed.kind == WeightKind::Bfloat16)
            pack_pairs(static_cast<const uint16_t*>(from), static_cast<uint16_t*>(to), lanes, inputs, panel);
        else if (packed.kind == WeightKind::Int8)
            pack_pairs(static_cast<const int8_t*>(from), static_cast<int8_t*>(to), lanes, inputs, panel);
        else
            pack_int4(static_cast<const uint8_t*>(from), static_cast<uint8_t*>(to), lanes, inputs, panel);
    }
}

}  // namespace

WeightView PackedLinear::view() const {
    return {kind, outputs, inputs, data.get(), static_cast<const float*>(scales.get())};
}

PackedLinear pack_linear(WeightKind kind, Activation activation, int64_t outputs, int64_t inputs, int64_t panel,
                         int64_t group, const void* source, const float* scales, ThreadPool& pool) {
    const int64_t padded = round_up(outputs, panel);
    const int64_t depth = round_up(inputs, inputs_together(kind));
    PackedLinear packed{kind,    activation, outputs, inputs, panel, group, padded * depth * bits_of(kind) / 8,
                        nullptr, nullptr};
    packed.data = allocate_zeroed(size_t(packed.bytes));
    if (scales) {
        packed.scales = allocate_zeroed(size_t(padded) * sizeof(float));
        std::memcpy(packed.scales.get(), scales, size_t(outputs) * sizeof(float));
    }
    pool.run([&](int part, int parts) { pack_panels(packed, source, part, parts); });
    return packed;
}

}  // namespace ernie
