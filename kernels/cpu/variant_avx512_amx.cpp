// AVX-512 with VNNI and BF16, and AMX for bfloat16 and int8: every processor with AMX has them.
#define ERNIE_VARIANT avx512_amx

#include "amx_attention.hpp"
#include "amx_quads.hpp"
#include "variant.hpp"

namespace ernie {

const Kernels kAvx512AmxKernels = [] {
    using namespace avx512_amx;
    Kernels kernels = make_kernels<Avx512, Avx512VnniDots, Avx512Bf16Pairs, AmxQuads>("avx512-amx");
    kernels.linear = amx_linear;
    kernels.round = amx_round_rows;
    kernels.attend = amx_attend;
    kernels.attend_patches = amx_attend_patches;
    return kernels;
}();

}  // namespace ernie
