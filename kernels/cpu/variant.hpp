// Fills the kernel table of one instruction set. Included by variant_*.cpp, each compiled with its own flags.
#pragma once

#include "attention.hpp"
#include "cache_append.hpp"
#include "embed.hpp"
#include "gelu.hpp"
#include "linear.hpp"
#include "norm.hpp"
#include "patch_attention.hpp"
#include "quantize_activations.hpp"
#include "sampling.hpp"
#include "swiglu.hpp"
#include "token_masks.hpp"

namespace ernie::ERNIE_VARIANT {

// V: the float registers; D: the integer dot products on them; P: the products with rounded activations.
template <typename V, typename D, typename P>
constexpr Kernels make_kernels(const char* name) {
    return {.name = name,
            .panel = kPanel<V>,
            .linear = linear<D, P>,
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
            .attend = attend<V>,
            .join = join<V>,
            .sample = sample<V>,
            .mask = mask};
}

}  // namespace ernie::ERNIE_VARIANT
