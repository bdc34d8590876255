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

// A panel of quads: target[k / 4][lane][k % 4] = source[lane][k] + 128.
void pack_quads(const uint8_t* source, uint8_t* target, int64_t lanes, int64_t inputs, int64_t panel) {
    const uint32_t offsets = 0x01010101u * uint32_t(kByteOffset);
    const int64_t whole = inputs / 4 * 4;
    for (int64_t start = 0; start < whole; start += kPackBlock) {
        const int64_t end = std::min(whole, start + kPackBlock);
        for (int64_t lane = 0; lane < lanes; ++lane)
            for (int64_t k = start; k < end; k += 4) {
                uint32_t quad;
                std::memcpy(&quad, source + lane * inputs + k, sizeof quad);
                quad ^= offsets;
                std::memcpy(target + quad_offset(panel, lane, k), &quad, sizeof quad);
            }
    }
    for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t k = whole; k < inputs; ++k)
            target[quad_offset(panel, lane, k)] = source[lane * inputs + k] ^ uint8_t(kByteOffset);
}

// Eight nibbles of a word, even ones to the lower half: pair_nibble.
uint32_t nibbles_in_pairs(uint32_t word) {
    const auto together = [](uint32_t bytes) {  // the low nibbles of four bytes to 16 bits
        bytes = (bytes | bytes >> 4) & 0x00FF00FF;
        return (bytes | bytes >> 8) & 0xFFFF;
    };
    return together(word & 0x0F0F0F0F) | together(word >> 4 & 0x0F0F0F0F) << 16;
}

// The lower four to the low halves of the bytes, the upper four to the high halves: quad_nibble.
uint32_t nibbles_in_quads(uint32_t word) {
    const auto apart = [](uint32_t nibbles) {
        nibbles = (nibbles | nibbles << 8) & 0x00FF00FF;
        return (nibbles | nibbles << 4) & 0x0F0F0F0F;
    };
    return apart(word & 0xFFFF) | apart(word >> 16) << 4;
}

// Source rows hold two codes per byte, even k in the low nibble; the target holds code + 8 in words of kStep
// inputs, in the order that `arrange` gives a word.
template <uint32_t (*arrange)(uint32_t)>
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
            word = arrange(word) ^ offsets;
            std::memcpy(target + lane * kStep / 2, &word, sizeof word);
        }
}

void pack_codes(const PackedLinear& packed, int64_t panel, const uint8_t* from, uint8_t* to, int64_t lanes) {
    const bool is_int8 = packed.kind == WeightKind::Int8;
    const auto pack = packed.in_quads ? (is_int8 ? pack_quads : pack_int4<nibbles_in_quads>)
                                      : (is_int8 ? pack_pairs<uint8_t> : pack_int4<nibbles_in_pairs>);
    pack(from, to, lanes, packed.inputs, panel);
}

// int16 codes meet weights with scales of groups in pairs: these groups are smaller than those of the codes, of
// which alone quads have sums.
bool is_in_quads(const Kernels& kernels, WeightKind kind, Activation activation, bool has_groups) {
    if (activation == Activation::Int16)
        return kernels.has_int16_in_quads && !has_groups &&
               (kind == WeightKind::Int4 || kind == WeightKind::Int8);
    if (activation != Activation::Int8 && activation != Activation::StaticInt8) return false;
    return kind == WeightKind::Int4 || (kind == WeightKind::Int8 && kernels.has_int8_in_quads);
}

void pack_panels(const PackedLinear& packed, int64_t panel, const void* source, int part, int parts) {
    const int64_t inputs = packed.inputs, panels = round_up(packed.outputs, packed.panel) / panel;
    const int64_t panel_bytes = packed.bytes / panels;
    const int64_t row_bytes = (inputs * bits_of(packed.kind) + 7) / 8;
    for (int64_t p = panels * part / parts; p < panels * (part + 1) / parts; ++p) {
        const void* from = static_cast<const char*>(source) + p * panel * row_bytes;
        void* to = static_cast<char*>(packed.data.get()) + p * panel_bytes;
        const int64_t lanes = std::max<int64_t>(0, std::min(panel, packed.outputs - p * panel));
        if (packed.kind == WeightKind::Float32)
            pack_floats(static_cast<const float*>(from), static_cast<float*>(to), lanes, inputs, panel);
        else if (packed.kind == WeightKind::Bfloat16)
            pack_pairs(static_cast<const uint16_t*>(from), static_cast<uint16_t*>(to), lanes, inputs, panel);
        else
            pack_codes(packed, panel, static_cast<const uint8_t*>(from), static_cast<uint8_t*>(to), lanes);
    }
}

}  // namespace

WeightView PackedLinear::view() const {
    return {kind,
            in_quads,
            is_narrow,
            outputs,
            inputs,
            data.get(),
            static_cast<const float*>(scales.get()),
            static_cast<const uint16_t*>(group_scales.get())};
}

WeightView PackedLinear::view(int64_t first, int64_t count) const {
    WeightView part = view();
    const int64_t panels = (outputs + panel - 1) / panel;
    part.data = static_cast<const std::byte*>(part.data) + first * (bytes / panels);
    if (part.scales) part.scales += first * panel;
    if (part.group_scales) part.group_scales += first * groups_of(inputs) * panel;
    part.outputs = std::min(count * panel, outputs - first * panel);
    return part;
}

PackedLinear pack_linear(const Kernels& kernels, WeightKind kind, Activation activation, int64_t outputs,
                         int64_t inputs, int64_t group, const void* source, const WeightScales& scales,
                         ThreadPool& pool) {
    const bool in_quads = is_in_quads(kernels, kind, activation, scales.of_groups != nullptr);
    const int64_t padded = round_up(outputs, kernels.panel);
    const int64_t bytes = padded * round_up(inputs, inputs_together(kind, in_quads)) * bits_of(kind) / 8;
    // Tiles do not pay with a scale for every few inputs, nor do narrow panels without tiles.
    const bool is_narrow = in_quads && kernels.quad_panel < kernels.panel && activation != Activation::Int8;
    PackedLinear packed{kind,          activation, in_quads, is_narrow, outputs, inputs,
                        kernels.panel, group,      bytes,    nullptr,   nullptr, nullptr};
    packed.data = allocate_in_chunk(size_t(packed.bytes));
    if (scales.of_outputs) {
        packed.scales = allocate_in_chunk(size_t(padded) * sizeof(float));
        std::memcpy(packed.scales.get(), scales.of_outputs, size_t(outputs) * sizeof(float));
    }
    if (scales.of_groups) {
        const int64_t groups = groups_of(inputs), panel = kernels.panel;
        packed.group_scales = allocate_in_chunk(size_t(padded * groups) * sizeof(uint16_t));
        auto* target = static_cast<uint16_t*>(packed.group_scales.get());
        for (int64_t n = 0; n < outputs; ++n)
            for (int64_t g = 0; g < groups; ++g)
                target[(n / panel * groups + g) * panel + n % panel] = scales.of_groups[n * groups + g];
    }
    const int64_t panel = is_narrow ? kernels.quad_panel : kernels.panel;
    pool.run([&](int part, int parts) { pack_panels(packed, panel, source, part, parts); });
    return packed;
}

}  // namespace ernie
