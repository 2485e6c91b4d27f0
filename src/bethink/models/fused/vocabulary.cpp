// What follows the head: log-probabilities with entropy and gradient, and drawing tokens.

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

// The token of each row where the running sum of softmax(logits / temperature) passes `uniform`, or the likeliest where the temperature
// is 0; `forced` tokens (>= 0) are taken as they are. logprob: under the model's own distribution.
template <class T>
void draw(const T *logits, Size row_stride, const float *temperature, const double *uniform, const Size *forced, Size *token,
          float *logprob, Size rows, Size vocabulary, int threads) {
    constexpr Size BLOCK = 256;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Size row = 0; row < rows; ++row) {
        const T *line = logits + row * row_stride;
        floats best = load(line);
        for (Size i = WIDE; i < vocabulary; i += WIDE) best = larger(best, load(line + i));
        const float most = largest(best), heat = temperature[row], colder = heat > 0.f ? 1.f / heat : 0.f;
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
                if (heat > 0.f && heat != 1.f) warm += exponential(below * colder);
            }
            plain += sum(total);
            block_sum[b] = heat == 1.f ? sum(total) : sum(warm);
            drawn += block_sum[b];
        }
        Size chosen = forced ? forced[row] : -1;
        if (chosen < 0 && heat > 0.f) {
            // Rounding may put the target at the very end: it is pulled just below, so that no weightless token is drawn.
            double left = uniform[row] * drawn, before = 0.;
            if (!(left < drawn)) left = std::nextafter(drawn, 0.);
            Size b = 0;
            while (b + 1 < blocks && before + block_sum[b] <= left) before += block_sum[b++];
            const Size end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
            for (Size i = b * BLOCK; i < end; i += WIDE) {
                floats weight = exponential((load(line + i) - most) * colder);
                for (int j = 0; j < WIDE; ++j) {
                    if (weight[j] > 0.f) chosen = i + j;  // the last with a weight, where rounding leaves the target unreached
                    before += weight[j];
                    if (weight[j] > 0.f && before > left) { i = end; break; }
                }
            }
        }
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
