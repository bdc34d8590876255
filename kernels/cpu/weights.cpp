#include "weights.hpp"

#include <algorithm>
#include <cstring>

namespace ernie {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

size_t item_size(WeightKind kind) {
    return kind == WeightKind::Float32 ? 4 : kind == WeightKind::Bfloat16 ? 2 : 1;
}

// One panel: target[(k / kQuad * panel + lane) * kQuad + k % kQuad] = source[lane][k].
template <typename T, int kQuad>
void pack_panel(const T* source, T* target, int64_t lanes, int64_t inputs, int64_t panel) {
    constexpr int64_t kBlock = 64;  // inputs per pass, so that the target stays in the first cache
    for (int64_t start = 0; start < inputs; start += kBlock) {
        const int64_t end = std::min(inputs, start + kBlock);
        for (int64_t lane = 0; lane < lanes; ++lane)
            for (int64_t k = start; k < end; ++k)
                target[(k / kQuad * panel + lane) * kQuad + k % kQuad] = source[lane * inputs + k];
    }
}

template <typename T, int kQuad>
void pack_panels(const PackedLinear& packed, const void* source, int part, int parts) {
    const int64_t panels = round_up(packed.outputs, packed.panel) / packed.panel;
    const int64_t panel_items = packed.panel * round_up(packed.inputs, kQuad);
    for (int64_t p = panels * part / parts; p < panels * (part + 1) / parts; ++p) {
        const int64_t first = p * packed.panel;
        pack_panel<T, kQuad>(static_cast<const T*>(source) + first * packed.inputs,
                             static_cast<T*>(packed.data.get()) + p * panel_items,
                             std::min(packed.panel, packed.outputs - first), packed.inputs, packed.panel);
    }
}

}  // namespace

WeightView PackedLinear::view() const {
    return {kind, outputs, inputs, data.get(), static_cast<const float*>(scales.get())};
}

PackedLinear pack_linear(WeightKind kind, Activation activation, int64_t outputs, int64_t inputs, int64_t panel,
                         int64_t group, const void* source, const float* scales, ThreadPool& pool) {
    PackedLinear packed{kind, activation, outputs, inputs, panel, group, nullptr, nullptr};
    const int64_t padded = round_up(outputs, panel);
    const int64_t depth = kind == WeightKind::Int8Dot ? round_up(inputs, 4) : inputs;
    packed.data = allocate_zeroed(size_t(padded * depth) * item_size(kind));
    if (scales) {
        packed.scales = allocate_zeroed(size_t(padded) * sizeof(float));
        std::memcpy(packed.scales.get(), scales, size_t(outputs) * sizeof(float));
    }
    pool.run([&](int part, int parts) {
        switch (kind) {
            case WeightKind::Float32:
                return pack_panels<float, 1>(packed, source, part, parts);
            case WeightKind::Bfloat16:
                return pack_panels<uint16_t, 1>(packed, source, part, parts);
            case WeightKind::Int8:
                return pack_panels<int8_t, 1>(packed, source, part, parts);
            case WeightKind::Int8Dot:
                return pack_panels<int8_t, 4>(packed, source, part, parts);
        }
    });
    return packed;
}

}  // namespace ernie
