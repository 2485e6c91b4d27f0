// What follows the head: log-probabilities with entropy and gradient, and drawing tokens.

#include <algorithm>

#include "numbers.h"

namespace {

// ---- log-probabilities ------------------------------------------------------------------------------------------------------------------

// log softmax(logits) at each row's target. log_total: the log of the sum of e^logit, for the gradient; entropy of each row, or null.
template <class T>
void log_softmax(const T *logits, const Size *target, float *logprob, float *log_total, float *entropy, Size rows, Size vocabulary,
                 int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size row = 0; row < rows; ++row) {
        const T *line = logits + row * vocabulary;
        floats best = load(line);
        for (Size i = WIDE; i < vocabulary; i += WIDE) best = larger(best, load(line + i));
        const float most = largest(best);
        floats total = splat(0.f), weighted = splat(0.f);
        for (Size i = 0; i < vocabulary; i += WIDE) {
            const floats below = load(line + i) - most, p = exponential(below);
            total += p;
            if (entropy) weighted += p * below;
        }
        const float all = sum(total);
        log_total[row] = most + std::log(all);
        logprob[row] = one(line + target[row]) - log_total[row];
        if (entropy) entropy[row] = std::log(all) - sum(weighted) / all;
    }
}

// The logits become their gradient: grad * (1 at the target, 0 elsewhere, less the softmax).
template <class T>
void log_softmax_backward(T *logits, const Size *target, const float *log_total, const float *grad, Size rows, Size vocabulary, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size row = 0; row < rows; ++row) {
        T *line = logits + row * vocabulary;
        const float chosen = std::exp(one(line + target[row]) - log_total[row]);
        for (Size i = 0; i < vocabulary; i += WIDE) store(line + i, exponential(load(line + i) - log_total[row]) * -grad[row]);
        float around[WIDE];
        T *near = line + target[row] / WIDE * WIDE;
        store(around, load(near));
        around[target[row] % WIDE] = grad[row] * (1.f - chosen);
        store(near, load(around));
    }
}

// ---- drawing tokens ---------------------------------------------------------------------------------------------------------------------

constexpr Size BLOCK = 256;

// top_k 0, top_p 1 and min_p 0 are off. Applied in this order, each on what the one before left.
struct Filter {
    Size top_k;
    float top_p, min_p;
    bool on() const { return top_k > 0 || top_p < 1.f || min_p > 0.f; }
};

struct Candidate { float weight; Size token; };
thread_local std::vector<Candidate> candidates;

// Where the running sum of weights passes uniform * sum: rounding may put the target at the very end, so it is pulled just below.
inline double target_of(double uniform, double sum) {
    const double target = uniform * sum;
    return target < sum ? target : std::nextafter(sum, 0.);
}

// The candidates are all tokens with at least `least` weight; false if the filters may keep others too.
bool gather(const float *weight, const float *highest, Size vocabulary, double total, const Filter &filter, float least) {
    candidates.clear();
    double mass = 0.;
    for (Size b = 0; b * BLOCK < vocabulary; ++b) {
        if (highest[b] < least) continue;
        const Size end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
        for (Size i = b * BLOCK; i < end; ++i)
            if (weight[i] >= least) { candidates.push_back({weight[i], i}); mass += weight[i]; }
    }
    if (least == 0.f) return true;
    if (filter.top_k > 0) return Size(candidates.size()) >= filter.top_k;
    return (filter.top_p < 1.f && mass >= filter.top_p * total) || filter.min_p >= least;
}

// A token of softmax(logits / temperature) within top-k, top-p and min-p, by a uniform number over the sorted ones that are kept.
template <class T> Size draw_filtered(const T *line, float most, float colder, const Filter &filter, double uniform, Size vocabulary) {
    const Size blocks = (vocabulary + BLOCK - 1) / BLOCK;
    scratch.begin(vocabulary + blocks);
    float *weight = scratch.take(vocabulary), *highest = scratch.take(blocks);
    double total = 0.;
    for (Size b = 0; b < blocks; ++b) {
        const Size end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
        floats all = splat(0.f), best = splat(0.f);
        for (Size i = b * BLOCK; i < end; i += WIDE) {
            const floats w = exponential((load(line + i) - most) * colder);
            store(weight + i, w);
            all += w;
            best = larger(best, w);
        }
        total += sum(all);
        highest[b] = largest(best);
    }
    // Few tokens carry nearly all of the mass: those are looked at first.
    const float first = filter.top_k == 0 && filter.min_p > 0.f ? filter.min_p : 2.5e-3f;
    for (float least : {first, 4.5e-5f, 1e-7f, 0.f})
        if (least <= first && gather(weight, highest, vocabulary, total, filter, least)) break;
    std::sort(candidates.begin(), candidates.end(), [](const Candidate &a, const Candidate &b) {
        return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
    });
    const Size count = Size(candidates.size()), k = filter.top_k > 0 && filter.top_k < count ? filter.top_k : count;
    double mass = total;
    if (filter.top_k > 0) {
        mass = 0.;
        for (Size r = 0; r < k; ++r) mass += candidates[r].weight;
    }
    Size kept = 0;
    double sum_kept = 0.;
    for (; kept < k; ++kept) {
        const float w = candidates[kept].weight;
        if (kept > 0 && ((filter.top_p < 1.f && sum_kept >= filter.top_p * mass) || w < filter.min_p)) break;
        sum_kept += w;
    }
    const double target = target_of(uniform, sum_kept);
    double before = 0.;
    for (Size r = 0; r + 1 < kept; ++r) {
        before += candidates[r].weight;
        if (before > target) return candidates[r].token;
    }
    return candidates[kept - 1].token;
}

// A token of softmax(logits / temperature), where the running sum over the vocabulary passes the target; block_sum: those of the blocks.
template <class T>
Size draw_plain(const T *line, float most, float colder, const float *block_sum, double drawn, double uniform, Size vocabulary) {
    const Size blocks = (vocabulary + BLOCK - 1) / BLOCK;
    const double target = target_of(uniform, drawn);
    double before = 0.;
    Size b = 0, chosen = -1;
    while (b + 1 < blocks && before + block_sum[b] <= target) before += block_sum[b++];
    const Size end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
    for (Size i = b * BLOCK; i < end; i += WIDE) {
        floats weight = exponential((load(line + i) - most) * colder);
        for (int j = 0; j < WIDE; ++j) {
            if (weight[j] > 0.f) chosen = i + j;  // the last with a weight, where rounding leaves the target unreached
            before += weight[j];
            if (weight[j] > 0.f && before > target) return chosen;
        }
    }
    return chosen;
}

// A token of each row as its temperature (0: the likeliest) and filter say; `forced` tokens (>= 0) are taken as they are. logprob: under the
// model's own distribution.
template <class T>
void draw(const T *logits, Size row_stride, const float *temperature, const Size *top_k, const float *top_p, const float *min_p,
          const double *uniform, const Size *forced, Size *token, float *logprob, Size rows, Size vocabulary, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Size row = 0; row < rows; ++row) {
        const T *line = logits + row * row_stride;
        floats best = load(line);
        for (Size i = WIDE; i < vocabulary; i += WIDE) best = larger(best, load(line + i));
        const float most = largest(best), heat = temperature[row], colder = heat > 0.f ? 1.f / heat : 0.f;
        const Filter filter = {top_k[row], top_p[row], min_p[row]};
        const bool plainly = heat > 0.f && !filter.on();
        const Size blocks = (vocabulary + BLOCK - 1) / BLOCK;
        scratch.begin(blocks);
        float *block_sum = scratch.take(blocks);
        double plain = 0., drawn = 0.;
        for (Size b = 0; b < blocks; ++b) {
            const Size end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
            floats total = splat(0.f), warm = splat(0.f);
            for (Size i = b * BLOCK; i < end; i += WIDE) {
                floats below = load(line + i) - most;
                total += exponential(below);
                if (plainly && heat != 1.f) warm += exponential(below * colder);
            }
            plain += sum(total);
            block_sum[b] = heat == 1.f ? sum(total) : sum(warm);
            drawn += block_sum[b];
        }
        Size chosen = forced ? forced[row] : -1;
        if (chosen < 0 && plainly) chosen = draw_plain(line, most, colder, block_sum, drawn, uniform[row], vocabulary);
        else if (chosen < 0 && heat > 0.f) chosen = draw_filtered(line, most, colder, filter, uniform[row], vocabulary);
        if (chosen < 0) {
            chosen = 0;
            while (chosen + 1 < vocabulary && one(line + chosen) != most) ++chosen;
        }
        token[row] = chosen;
        logprob[row] = one(line + chosen) - most - float(std::log(plain));
    }
}

}  // namespace

extern "C" {
EXPORT(draw)
EXPORT(log_softmax)
EXPORT(log_softmax_backward)
}
