#include "dispatch.hpp"

#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ernie {
namespace {

struct Variant {
    const Kernels* kernels;
    bool is_supported;
    bool is_lowered;
};

#if defined(__x86_64__) && defined(__linux__)
// Whether the processor has AMX for bfloat16 and int8, and Linux lets this process use its registers: it must
// be asked.
bool has_tiles() {
    constexpr unsigned kNeeded = 1 << 24 | 1 << 22 | 1 << 25;  // CPUID leaf 7, EDX: tiles, bfloat16, int8
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & kNeeded) != kNeeded) return false;
    static const bool is_permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return is_permitted;
}
#else
bool has_tiles() { return false; }
#endif

#if defined(__x86_64__)
// Whether the processor multiplies quads of bytes in registers of AVX2. GCC 12 has no name for it. Linux keeps
// these registers where it keeps those of AVX2.
bool has_avx_vnni() {
    constexpr unsigned kNeeded = 1 << 4;  // CPUID leaf 7, subleaf 1, EAX
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kNeeded);
}
#endif

std::vector<Variant> variants() {
    std::vector<Variant> all = {{&kScalarKernels, true, false}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vl");
    const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni");
    const bool has_bf16 = has_vnni && __builtin_cpu_supports("avx512bf16");
    all.push_back({&kAvx512LoweredKernels, has_avx2, true});
    all.push_back({&kAvx2Kernels, has_avx2, false});
    all.push_back({&kAvx2VnniKernels, has_avx2 && has_avx_vnni(), false});
    all.push_back({&kAvx512Kernels, has_avx512, false});
    all.push_back({&kAvx512VnniKernels, has_vnni, false});
    all.push_back({&kAvx512Bf16Kernels, has_bf16, false});
    all.push_back({&kAvx512AmxKernels, has_bf16 && has_tiles(), false});
#endif
    return all;
}

}  // namespace

std::vector<std::string> instruction_sets(bool include_lowered) {
    std::vector<std::string> names;
    for (const Variant& variant : variants())
        if (variant.is_supported && (include_lowered || !variant.is_lowered))
            names.emplace_back(variant.kernels->name);
    return names;
}

const Kernels& kernels_for(const std::string& name) {
    const std::string requested = name.empty() ? instruction_sets(false).back() : name;
    for (const Variant& variant : variants())
        if (variant.is_supported && requested == variant.kernels->name) return *variant.kernels;
    std::string message = "instruction set '" + requested + "' is not available on this processor; available:";
    for (const std::string& known : instruction_sets(true)) message += " " + known;
    throw std::invalid_argument(message);
}

}  // namespace ernie
