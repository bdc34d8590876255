// The choice of experts for each row (ernie_kernels/routing.py), and rows sorted by expert.
#pragma once

#include <cstdint>
#include <vector>

namespace ernie {

// The experts of rows begin..end: `logits` [rows][experts] to `chosen` and `weights` [rows][count], the best
// first, of equals the lower index. Rows are computed alone.
void choose_experts(const float* logits, const float* bias, int64_t experts, int64_t count, int64_t begin,
                    int64_t end, int32_t* chosen, float* weights);

// Pairs of a row and one of its experts, sorted by expert and then by row.
struct Pairs {
    std::vector<int64_t> starts;  // [experts + 1]: pairs starts[e]..starts[e + 1] are of expert e
    std::vector<int32_t> rows;    // [pairs]
    std::vector<float> weights;   // [pairs]
    std::vector<int32_t> places;  // [rows][count]: the pairs of a row, experts rising

    void sort(const int32_t* chosen, const float* weights, int64_t rows, int64_t count, int64_t experts);
};

}  // namespace ernie
