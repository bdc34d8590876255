// Fills the kernel table of one instruction set. Included by variant_*.cpp, each compiled with its own flags.
#pragma once

#include "attention.hpp"
#include "cache_append.hpp"
#include "embed.hpp"
#include "gelu.hpp"
#include "linear.hpp"
#include "norm.hpp"
#include "patch_attention.hpp"
#include "quad_linear.hpp"
#include "quantize_activations.hpp"
#include "sampling.hpp"
#include "swiglu.hpp"
#include "token_masks.hpp"

namespace ernie::ERNIE_VARIANT {

template <typename D, typename P, typename Q>
void linear(const LinearTask& task, int part, int parts) {
    if (task.weight.in_quads) return quad_linear<Q>(task, part, parts);
    pair_linear<D, P>(task, part, parts);
}

// V: the float registers; D: the integer dot products of pairs on them, Q: those of quads; P: the products with
// activations rounded to bfloat16.
template <typename V, typename D, typename P, typename Q>
constexpr Kernels make_kernels(const char* name) {
    return {.name = name,
            .panel = kPanel<V>,
            .quad_panel = kQuadPanel<Q>,
            .has_int8_in_quads = Q::kHasInt8,
            .has_int16_in_quads = Q::kHasHalves,
            .linear = linear<D, P, Q>,
            .quantize = quantize<D>,
            .round = round_rows<P>,
            .quantize_static = quantize_static<D>,
            .norm = norm<V>,
            .swiglu = swiglu<V>,
            .gelu = gelu<V>,
            .embed = embed<V>,
            .append_patches = append_patches<V>,
            .attend_patches = attend_patches<V>,
            .append = append<V>,
            .attend = attend<V, P>,
            .join = join<V, P>,
            .sample = sample<V>,
            .best = raise_best<V>,
            .mask = mask};
}

}  // namespace ernie::ERNIE_VARIANT
