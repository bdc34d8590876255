// Limits of this machine: how fast threads read memory, and how many operations a second an instruction makes.
//
//     g++ -O2 -std=c++17 -pthread probe.cpp -o probe
//
// It stays, and answers one line of standard input by one line, so that limits are measured in the same seconds
// as what they limit:
//     read MIB THREADS     GB/s of reading MIB mebibytes again and again, each thread its own part in one stream
//     peak NAME THREADS    GOP/s of an instruction on registers (a multiply or an add is an operation);
//                          "-" if this processor does not have it
//     names                the instructions that this processor has
#include <cpuid.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kMebibyte = 1 << 20;
constexpr double kSeconds = 0.12;  // of one sample
constexpr int kSamples = 3;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<int> allowed_cores() {
    cpu_set_t set;
    std::vector<int> cores;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int core = 0; core < CPU_SETSIZE; ++core)
            if (CPU_ISSET(core, &set)) cores.push_back(core);
    return cores;
}

// Seconds from the first thread's start to the last one's end; each thread has a core of its own.
double run(int num_threads, const std::function<void(int)>& work) {
    static const std::vector<int> cores = allowed_cores();
    std::atomic<int> num_ready{0};
    std::vector<double> starts(num_threads), ends(num_threads);
    std::vector<std::thread> threads;
    for (int index = 0; index < num_threads; ++index)
        threads.emplace_back([&, index] {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cores[index % cores.size()], &set);
            pthread_setaffinity_np(pthread_self(), sizeof set, &set);
            ++num_ready;
            while (num_ready < num_threads) std::this_thread::yield();
            starts[index] = now();
            work(index);
            ends[index] = now();
        });
    for (std::thread& thread : threads) thread.join();
    return *std::max_element(ends.begin(), ends.end()) - *std::min_element(starts.begin(), starts.end());
}

// Units a second: the median of samples, each long enough to be measured. `work(thread, repeats)`.
double rate(int num_threads, double units, const std::function<void(int, long)>& work) {
    long repeats = 1;
    for (double taken = 0;; repeats = std::max(2 * repeats, long(repeats * kSeconds / std::max(taken, 1e-6)))) {
        taken = run(num_threads, [&](int thread) { work(thread, repeats); });
        if (taken > kSeconds / 2) break;
    }
    std::vector<double> rates;
    for (int sample = 0; sample < kSamples; ++sample)
        rates.push_back(repeats * units / run(num_threads, [&](int thread) { work(thread, repeats); }));
    std::sort(rates.begin(), rates.end());
    return rates[kSamples / 2];
}

// --- memory --------------------------------------------------------------------------------------------------

__attribute__((target("avx2"))) void read_once(const char* begin, std::size_t size) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (std::size_t at = 0; at < size; at += 128) {
        const auto* from = reinterpret_cast<const __m256i*>(begin + at);
        a = _mm256_xor_si256(a, _mm256_load_si256(from));
        b = _mm256_xor_si256(b, _mm256_load_si256(from + 1));
        c = _mm256_xor_si256(c, _mm256_load_si256(from + 2));
        d = _mm256_xor_si256(d, _mm256_load_si256(from + 3));
    }
    asm volatile("" ::"x"(_mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d))));
}

double read_rate(std::size_t mebibytes, int num_threads) {
    static char* buffer = nullptr;
    static std::size_t capacity = 0;
    const std::size_t size = mebibytes * kMebibyte;
    if (size > capacity) {
        if (buffer) munmap(buffer, capacity);
        buffer = static_cast<char*>(
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (buffer == MAP_FAILED) return 0;
        madvise(buffer, size, MADV_HUGEPAGE);
        std::memset(buffer, 1, size);
        capacity = size;
    }
    const std::size_t part = size / num_threads / 4096 * 4096;
    return rate(num_threads, double(part) * num_threads, [&](int thread, long repeats) {
        for (long repeat = 0; repeat < repeats; ++repeat) read_once(buffer + thread * part, part);
    });
}

// --- instructions --------------------------------------------------------------------------------------------
// Each kernel runs its instruction on independent sums, enough of them to hide its latency, which the empty
// `asm` keeps in registers.

#define REPEAT_8(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define REPEAT_12(M) REPEAT_8(M) M(8) M(9) M(10) M(11)
#define DEFINE_KERNEL(NAME, TARGET, VECTOR, ZERO, REGISTER, EXPRESSION)               \
    __attribute__((target(TARGET), optimize("unroll-loops"))) void NAME(long count) { \
        VECTOR sums[12];                                                              \
        VECTOR x = ZERO, y = ZERO;                                                    \
        asm volatile("" : "+" REGISTER(x), "+" REGISTER(y));                          \
        for (VECTOR& sum : sums) sum = ZERO;                                          \
        for (long step = 0; step < count; ++step) {                                   \
            REPEAT_12(EXPRESSION)                                                     \
        }                                                                             \
    }

#define FMA_256(i)                              \
    sums[i] = _mm256_fmadd_ps(x, y, sums[i]);   \
    asm volatile("" : "+x"(sums[i]));
#define FMA_512(i)                              \
    sums[i] = _mm512_fmadd_ps(x, y, sums[i]);   \
    asm volatile("" : "+v"(sums[i]));
#define MADDWD_256(i)                                                     \
    sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(x, y));         \
    asm volatile("" : "+x"(sums[i]));
#define DPBUSD_256(i)                                     \
    sums[i] = _mm256_dpbusd_avx_epi32(sums[i], x, y);     \
    asm volatile("" : "+x"(sums[i]));
#define DPBUSD_512(i)                                     \
    sums[i] = _mm512_dpbusd_epi32(sums[i], x, y);         \
    asm volatile("" : "+v"(sums[i]));
#define DPWSSD_512(i)                                     \
    sums[i] = _mm512_dpwssd_epi32(sums[i], x, y);         \
    asm volatile("" : "+v"(sums[i]));
#define DPBF16_512(i)                                                      \
    sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)x, (__m512bh)y);         \
    asm volatile("" : "+v"(sums[i]));
#define MADDUBSW_256(i)                                                                                  \
    sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), y));               \
    asm volatile("" : "+x"(sums[i]));

DEFINE_KERNEL(fma_256, "avx2,fma", __m256, _mm256_setzero_ps(), "x", FMA_256)
DEFINE_KERNEL(maddwd_256, "avx2", __m256i, _mm256_setzero_si256(), "x", MADDWD_256)
DEFINE_KERNEL(maddubsw_256, "avx2", __m256i, _mm256_setzero_si256(), "x", MADDUBSW_256)
DEFINE_KERNEL(dpbusd_256, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), "x", DPBUSD_256)
DEFINE_KERNEL(fma_512, "avx512f", __m512, _mm512_setzero_ps(), "v", FMA_512)
DEFINE_KERNEL(dpwssd_512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), "v", DPWSSD_512)
DEFINE_KERNEL(dpbusd_512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), "v", DPBUSD_512)
DEFINE_KERNEL(dpbf16_512, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), "v", DPBF16_512)

// Tiles 0 to 3 are sums, 4 and 5 rows of activations, 6 and 7 columns of weights.
__attribute__((target("amx-tile"))) void configure_tiles() {
    struct alignas(64) {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    asm volatile("" ::"r"(&configuration) : "memory");  // GCC 12 believes that only the first bytes are read
    _tile_loadconfig(&configuration);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

__attribute__((target("amx-tile,amx-int8"))) void tdpbssd(long count) {
    configure_tiles();
    for (long step = 0; step < count; ++step) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
}

__attribute__((target("amx-tile,amx-bf16"))) void tdpbf16ps(long count) {
    configure_tiles();
    for (long step = 0; step < count; ++step) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

struct Instruction {
    bool is_there;
    double operations;  // of one step
    void (*run)(long count);
};

struct Features {
    unsigned ebx7 = 0, ecx7 = 0, edx7 = 0, eax7_1 = 0;
    bool tiles = false;
};

Features features() {
    Features found;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    __get_cpuid_count(7, 0, &eax, &found.ebx7, &found.ecx7, &found.edx7);
    __get_cpuid_count(7, 1, &found.eax7_1, &ebx, &ecx, &edx);
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    found.tiles = (found.edx7 >> 24 & 1) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return found;
}

const std::map<std::string, Instruction>& instructions() {
    static const Features has = features();
    __builtin_cpu_init();
    static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
    static const bool vnni = avx512 && (has.ecx7 >> 11 & 1), bf16 = avx512 && (has.eax7_1 >> 5 & 1);
    static const bool avx_vnni = avx2 && (has.eax7_1 >> 4 & 1);
    static const std::map<std::string, Instruction> all = {
        {"vfmadd231ps ymm", {avx2, 12 * 8 * 2, fma_256}},
        {"vpmaddwd ymm", {avx2, 12 * 16 * 2, maddwd_256}},
        {"vpmaddubsw ymm", {avx2, 12 * 32 * 2, maddubsw_256}},
        {"vpdpbusd ymm", {avx_vnni, 12 * 32 * 2, dpbusd_256}},
        {"vfmadd231ps zmm", {avx512, 12 * 16 * 2, fma_512}},
        {"vpdpwssd zmm", {vnni, 12 * 32 * 2, dpwssd_512}},
        {"vpdpbusd zmm", {vnni, 12 * 64 * 2, dpbusd_512}},
        {"vdpbf16ps zmm", {bf16, 12 * 32 * 2, dpbf16_512}},
        {"tdpbssd", {has.tiles && (has.edx7 >> 25 & 1), 4 * 16 * 16 * 64 * 2, tdpbssd}},
        {"tdpbf16ps", {has.tiles && (has.edx7 >> 22 & 1), 4 * 16 * 16 * 32 * 2, tdpbf16ps}},
    };
    return all;
}

std::string answer(const std::string& line) {
    std::istringstream words(line);
    std::ostringstream out;
    std::string command, name, part;
    words >> command;
    if (command == "read") {
        std::size_t mebibytes = 0;
        int num_threads = 1;
        words >> mebibytes >> num_threads;
        out << read_rate(mebibytes, num_threads) / 1e9;
    } else if (command == "peak") {
        std::vector<std::string> rest;
        while (words >> part) rest.push_back(part);
        const int num_threads = rest.empty() ? 1 : std::atoi(rest.back().c_str());
        for (std::size_t index = 0; index + 1 < rest.size(); ++index) name += (index ? " " : "") + rest[index];
        const auto found = instructions().find(name);
        if (found == instructions().end() || !found->second.is_there) return "-";
        const Instruction& instruction = found->second;
        constexpr long kSteps = 1000;
        out << rate(num_threads, kSteps * instruction.operations * num_threads,
                    [&](int, long repeats) { instruction.run(kSteps * repeats); }) /
                   1e9;
    } else if (command == "names") {
        for (const auto& [each, instruction] : instructions())
            if (instruction.is_there) out << (out.tellp() > 0 ? "," : "") << each;
    }
    return out.str();
}

}  // namespace

int main() {
    for (std::string line; std::getline(std::cin, line);) std::cout << answer(line) << std::endl;
}
