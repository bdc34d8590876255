#include "routing.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ernie {
namespace {

constexpr float kSmallestSum = 1e-12f;

// Softmax of one row. A NaN anywhere makes all of them NaN.
void softmax(const float* logits, int64_t count, float* probabilities) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, logits[i]);
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += probabilities[i] = std::exp(logits[i] - largest);
    for (int64_t i = 0; i < count; ++i) probabilities[i] /= sum;
}

// The best one that was not taken. Biases are finite, so that of a row all scores are numbers, or none are;
// then the first is taken, as in the golden model.
int64_t best_left(const std::vector<float>& scores, const std::vector<bool>& taken) {
    int64_t best = -1;
    for (int64_t i = 0; i < int64_t(scores.size()); ++i) {
        if (taken[size_t(i)]) continue;
        if (best < 0 || scores[size_t(i)] > scores[size_t(best)]) best = i;
    }
    return best;
}

}  // namespace

void choose_experts(const float* logits, const float* bias, int64_t experts, int64_t count, int64_t begin,
                    int64_t end, int32_t* chosen, float* weights) {
    std::vector<float> probabilities(static_cast<size_t>(experts)), scores(static_cast<size_t>(experts));
    std::vector<bool> taken(static_cast<size_t>(experts));
    for (int64_t row = begin; row < end; ++row) {
        softmax(logits + row * experts, experts, probabilities.data());
        for (int64_t i = 0; i < experts; ++i) scores[size_t(i)] = probabilities[size_t(i)] + bias[i];
        taken.assign(size_t(experts), false);
        float sum = 0;
        for (int64_t i = row * count; i < (row + 1) * count; ++i) {
            const int64_t best = best_left(scores, taken);
            taken[size_t(best)] = true;
            chosen[i] = int32_t(best);
            weights[i] = probabilities[size_t(best)];
            sum += weights[i];
        }
        const float divisor = std::max(sum, kSmallestSum);
        for (int64_t i = row * count; i < (row + 1) * count; ++i) weights[i] /= divisor;
    }
}

void Pairs::sort(const int32_t* chosen, const float* chosen_weights, int64_t row_count, int64_t count,
                 int64_t experts) {
    const int64_t pairs = row_count * count;
    starts.assign(size_t(experts + 1), 0);
    rows.resize(size_t(pairs));
    weights.resize(size_t(pairs));
    places.resize(size_t(pairs));
    for (int64_t i = 0; i < pairs; ++i) ++starts[size_t(chosen[i]) + 1];
    for (size_t e = 1; e < starts.size(); ++e) starts[e] += starts[e - 1];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t i = 0; i < pairs; ++i) {
        const int64_t pair = next[size_t(chosen[i])]++;
        rows[size_t(pair)] = int32_t(i / count);
        weights[size_t(pair)] = chosen_weights[i];
    }
    std::vector<int64_t> found(static_cast<size_t>(row_count), 0);
    for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t row = rows[size_t(pair)];
        places[size_t(row * count + found[size_t(row)]++)] = int32_t(pair);
    }
}

}  // namespace ernie
