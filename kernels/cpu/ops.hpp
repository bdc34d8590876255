// The ops over raw pointers: checks, scratch memory, and the order of the kernels of each op.
// One call at a time (a mutex); results do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "batch.hpp"
#include "cache.hpp"
#include "kernels.hpp"
#include "moe.hpp"
#include "patches.hpp"
#include "routing.hpp"
#include "thread_pool.hpp"
#include "weights.hpp"

namespace ernie {

// A float matrix in memory that it does not own.
struct Matrix {
    float* data;
    int64_t rows;
    int64_t columns;
};

// y [rows][outputs] = x [rows][inputs] times a weight.
struct Product {
    const PackedLinear* weight;
    const float* x;
    int64_t rows;
    float* y;
    const float* bias = nullptr;
    // The codes of a matrix, if they have been made, and which of its rows are those of x, which is not read.
    const QuantizedRows* codes = nullptr;
    const int32_t* code_rows = nullptr;
};

// A float vector in memory that it does not own.
struct Vector {
    const float* data;
    int64_t size;
};

// The rows of logits that are chosen greedily and not stored.
struct GreedyRows {
    const int32_t* places;  // [count], rising, among the rows of logits
    int64_t count;
    int64_t vocab_size;  // columns from there on are not chosen
    int64_t* tokens;     // [count]; -1: the best logit is not finite
};

inline constexpr int64_t kSmallWork = 1 << 16;  // multiply-adds that cost less than waking the other threads

void expect_shape(const char* name, const Matrix& x, int64_t rows, int64_t columns);

// Sizes and indices that do not fit throw std::invalid_argument, before anything is written.
class Ops {
  public:
    Ops(int threads, const std::string& instruction_set);

    const char* instruction_set() const { return kernels_.name; }
    int64_t panel() const { return kernels_.panel; }
    MemoryPool& results() { return results_; }

    PackedLinear pack(WeightKind kind, Activation activation, int64_t outputs, int64_t inputs, int64_t group,
                      const void* source, const WeightScales& scales);
    PackedLinear pack_w4a8(int64_t outputs, int64_t inputs, const void* source, const float* scales,
                           float input_scale, int64_t rotation);
    void embed(const PackedLinear& table, const Batch& batch, Matrix y);
    void norm(Matrix x, const Matrix* delta, const float* weight, int64_t width, float epsilon,
              Matrix* residual, Matrix y);
    void layer_norm(Matrix x, const Matrix* delta, Vector weight, Vector bias, float epsilon, Matrix* residual,
                    Matrix y);
    void linear(Matrix x, const PackedLinear& weight, const Vector* bias, Matrix y);
    void gelu_mlp(Matrix x, const PackedLinear& up, Vector up_bias, const PackedLinear& down, Vector down_bias,
                  GeluKind gelu, Matrix y);
    void append_patches(Matrix qkv, const PatchAngles& angles, PatchCache& cache, int64_t begin);
    void attend_patches(PatchCache& cache, int64_t begin, Matrix y);
    void mlp(Matrix x, const PackedLinear& gate_up, const PackedLinear& down, Matrix y);
    void moe(Matrix x, const MoeLayer& layer, const Batch& batch, Matrix y);
    void put_rows(Matrix x, Matrix media, const Batch& batch, Matrix y);
    void attention(Matrix qkv, const RotaryView& rotary, LayerCache& cache, Batch& batch, Matrix y);
    void sample(Matrix logits, const SamplingRow* batch, int64_t* tokens);
    void mask(Matrix logits, const uint32_t* masks, int64_t words, const int64_t* rows, int64_t count);
    void lm_head(Matrix hidden, const PackedLinear& head, const Batch& batch, const GreedyRows& greedy,
                 Matrix logits);

  private:
    template <typename Task>
    void run(void (*kernel)(const Task&, int, int), const Task& task, int64_t work);
    template <typename Share>
    void share_rows(int64_t rows, int64_t work_per_row, const Share& share);
    void multiply(const float* x, int64_t rows, const PackedLinear& weight, float* y);
    void multiply(const std::vector<Product>& products);
    size_t product_of(int chunk) const;
    void multiply_gated(const std::vector<Product>& of_all_rows);
    void multiply_slice(const Product& gate_up, const LinearTask& product, int64_t panel, int64_t panels,
                        float* scratch);
    void prepare(const std::vector<Product>& products);
    void choose_greedily(const PackedLinear& head, const LinearTask& product, const GreedyRows& greedy,
                         Matrix logits);
    static void copy_stored(const LinearTask& slice, const GreedyRows& greedy, int64_t first, Matrix logits);
    void quantize(const Product& product, const QuantizedRows& rows);
    void gather_codes(const Product& product, const QuantizedRows& rows);
    QuantizedRows quantize_once(Matrix x, const PackedLinear& weight);
    void transform(Matrix x, const PackedLinear& gate_up, const PackedLinear& down, Matrix y);
    void route_rows(Matrix x, const ExpertBank& bank);
    void add_bank(Matrix x, const ExpertBank& bank, Matrix y);
    void add_bank_rows(Matrix x, const ExpertBank& bank, const std::vector<int32_t>& rows, Matrix y);
    void add_experts(Matrix x, const QuantizedRows& codes, const ExpertBank& bank, int64_t first, int64_t last,
                     Matrix y);

    const Kernels& kernels_;
    ThreadPool pool_;
    std::mutex mutex_;
    MemoryPool results_;
    Scratch<std::byte> codes_, rounded_, row_codes_;
    Scratch<int32_t> sums_, row_sums_;
    Scratch<float> scales_, row_scales_, hidden_, queries_, scratch_, partials_, expert_rows_, chosen_weights_,
        bank_rows_;
    Scratch<int32_t> chosen_;
    std::vector<LinearTask> products_;
    std::vector<int> chunk_ends_;
    std::vector<PatchUnit> units_;
    Pairs pairs_;
};

// Runs all parts of a kernel; `work` is about its multiply-adds. Small ones stay on the calling thread: results
// do not depend on the number of parts.
template <typename Task>
void Ops::run(void (*kernel)(const Task&, int, int), const Task& task, int64_t work) {
    if (work < kSmallWork) return kernel(task, 0, 1);
    pool_.run([&](int part, int parts) { kernel(task, part, parts); });
}

// Calls share(begin, end) for all rows, in one piece or one for each thread.
template <typename Share>
void Ops::share_rows(int64_t rows, int64_t work_per_row, const Share& share) {
    if (rows * work_per_row < kSmallWork) return share(0, rows);
    pool_.run([&](int part, int parts) { share(rows * part / parts, rows * (part + 1) / parts); });
}

}  // namespace ernie
