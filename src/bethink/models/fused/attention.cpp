// Attention: of packed segments with its gradients, of prompts in pieces, and of one new token in each slot of a cache.

#include "cached.h"

#include <algorithm>

namespace {

// A segment is a run of queries, the first of them in row `first`, and the keys they see: query i sees the keys 0 ... before + i (the last
// `window` of them, where there is one). `shared` keys lie at the offset `prompt`, those after them at the offset `keys`.
struct Segment { Size first, queries, keys, before, prompt, shared; };

constexpr int ROWS = 6;     // query rows worked on together: 6 x 64 sums fill the registers
constexpr Size TILE = 256;  // query tokens in a task

// n rows of `size` numbers -> float32: rows of plain [..., size] or columns of turned [size, across], from `at` on.
template <class T> void unpack(const T *from, Size token, Size n, Size size, Size at, Size across, float *plain, float *turned) {
    for (Size t = 0; t < n; ++t)
        for (Size i = 0; i < size; i += WIDE) {
            floats x = load(from + t * token + i);
            if (plain) store(plain + (at + t) * size + i, x);
            if (turned) for (int j = 0; j < WIDE; ++j) turned[(i + j) * across + at + t] = x[j];
        }
}

// The keys (or values) of a segment but the first `skip`, n of them, as plain [padded n, size] or turned [size, padded n]; what is padded is 0.
template <class T> void unpack_seen(const T *x, const Segment &segment, Size token, Size skip, Size n, Size size, float *plain, float *turned) {
    const Size across = padded(n), shared = segment.shared > skip ? segment.shared - skip : 0;
    unpack(x + segment.prompt + skip * token, token, shared, size, 0, across, plain, turned);
    unpack(x + segment.keys + (skip + shared - segment.shared) * token, token, n - shared, size, shared, across, plain, turned);
    if (plain) std::memset(plain + n * size, 0, sizeof(float) * (across - n) * size);
    if (turned) for (Size i = 0; i < size; ++i) std::memset(turned + i * across + n, 0, sizeof(float) * (across - n));
}

// out[r][t] = sum_d left[r][d] turned[d][t] for t in [from, to), multiples of 32.
inline void scores(const float *left, const float *turned, Size size, Size across, Size from, Size to, float *out) {
    for (Size t = from; t < to; t += 2 * WIDE) {
        floats total[ROWS][2] = {};
        for (Size d = 0; d < size; ++d) {
            floats a = load(turned + d * across + t), b = load(turned + d * across + t + WIDE);
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; ++r) {
                total[r][0] += left[r * size + d] * a;
                total[r][1] += left[r * size + d] * b;
            }
        }
        for (int r = 0; r < ROWS; ++r) {
            store(out + r * across + t, total[r][0]);
            store(out + r * across + t + WIDE, total[r][1]);
        }
    }
}

// out[r][d] = sum_t weight[r][t] right[t][d].
inline void mix(const float *weight, const float *right, Size size, Size across, Size from, Size to, float *out) {
    for (Size d = 0; d < size; d += 2 * WIDE) {
        floats total[ROWS][2] = {};
        for (Size t = from; t < to; ++t) {
            floats a = load(right + t * size + d), b = load(right + t * size + d + WIDE);
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; ++r) {
                total[r][0] += weight[r * across + t] * a;
                total[r][1] += weight[r * across + t] * b;
            }
        }
        for (int r = 0; r < ROWS; ++r) {
            store(out + r * size + d, total[r][0]);
            store(out + r * size + d + WIDE, total[r][1]);
        }
    }
}

// into[t][d] += sum_r weight[r][t] left[r][d].
inline void spread(const float *weight, const float *left, Size size, Size across, Size from, Size to, float *into) {
    for (Size d = 0; d < size; d += 2 * WIDE) {
        floats rows[ROWS][2];
        for (int r = 0; r < ROWS; ++r) {
            rows[r][0] = load(left + r * size + d);
            rows[r][1] = load(left + r * size + d + WIDE);
        }
        for (Size t = from; t < to; ++t) {
            floats a = load(into + t * size + d), b = load(into + t * size + d + WIDE);
#pragma GCC unroll 6
            for (int r = 0; r < ROWS; ++r) {
                a += weight[r * across + t] * rows[r][0];
                b += weight[r * across + t] * rows[r][1];
            }
            store(into + t * size + d, a);
            store(into + t * size + d + WIDE, b);
        }
    }
}

// ROWS query rows: their tokens and heads, and the keys that any of them sees.
struct Rows {
    int count;
    Size token[ROWS], head[ROWS], low[ROWS], high[ROWS], from, to;

    Rows(const Segment &segment, const Heads &shape, Size kv, Size row, Size end) {
        const Size per = shape.heads / shape.groups;
        count = int(end - row < ROWS ? end - row : ROWS);
        from = INT64_MAX, to = 0;
        for (int r = 0; r < count; ++r) {
            token[r] = (row + r) / per;
            head[r] = kv * per + (row + r) % per;
            high[r] = segment.before + token[r] + 1;
            low[r] = shape.window > 0 && high[r] > shape.window ? high[r] - shape.window : 0;
            from = low[r] < from ? low[r] : from;
            to = high[r] > to ? high[r] : to;
        }
        from = from / 32 * 32;
    }
};

template <class T> void gather(const Rows &rows, const T *x, Size first, Size token, Size head, Size size, float by, float *out) {
    for (int r = 0; r < ROWS; ++r)
        for (Size i = 0; i < size; i += WIDE)
            store(out + r * size + i, r < rows.count ? load(x + (first + rows.token[r]) * token + rows.head[r] * head + i) * by : splat(0.f));
}

// softmax(q k^T scale) v. Where `log_total` is given it gets each row's log of the sum of e^score [query rows, heads].
template <class T>
void attend(const T *q, Size q_token, Size q_head, const T *k, const T *v, Size k_token, Size k_head, T *out, Size o_token,
            Size o_head, float *log_total, const Segment *segments, Size count, const Heads &shape, int threads) {
    std::vector<Size> tasks;  // (segment, first query token of the tile)
    for (Size s = 0; s < count; ++s)
        for (Size t = 0; t < segments[s].queries; t += TILE) { tasks.push_back(s); tasks.push_back(t); }
    const Size many = Size(tasks.size() / 2) * shape.groups, per = shape.heads / shape.groups, size = shape.size;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Size task = 0; task < many; ++task) {
        const Size kv = task % shape.groups, start = tasks[task / shape.groups * 2 + 1];
        const Segment segment = segments[tasks[task / shape.groups * 2]];
        const Size stop = start + TILE < segment.queries ? start + TILE : segment.queries;
        // Keys that stand before every window are not touched.
        const Size seen = segment.before + stop, earliest = segment.before + start + 1 - shape.window;
        const Size skip = shape.window > 0 && earliest > 0 ? earliest / 32 * 32 : 0, n = seen - skip, across = padded(n);
        scratch.begin(2 * across * size + ROWS * (across + 2 * size));
        float *turned = scratch.take(across * size), *values = scratch.take(across * size);
        float *score = scratch.take(ROWS * across), *left = scratch.take(ROWS * size), *result = scratch.take(ROWS * size);
        unpack_seen(k + kv * k_head, segment, k_token, skip, n, size, nullptr, turned);
        unpack_seen(v + kv * k_head, segment, k_token, skip, n, size, values, nullptr);
        const Segment rest = {segment.first, segment.queries, 0, segment.before - skip, 0, 0};
        for (Size row = start * per; row < stop * per; row += ROWS) {
            const Rows rows(rest, shape, kv, row, stop * per);
            const Size to = padded(rows.to);
            gather(rows, q, segment.first, q_token, q_head, size, shape.scale, left);
            scores(left, turned, size, across, rows.from, to, score);
            float total[ROWS];
            for (int r = 0; r < rows.count; ++r) {
                float *line = score + r * across;
                const float most = highest(line, rows.low[r], rows.high[r]);
                total[r] = weigh(line, rows.from, to, rows.low[r], rows.high[r], most);
                if (log_total) log_total[(segment.first + rows.token[r]) * shape.heads + rows.head[r]] = most + std::log(total[r]);
            }
            mix(score, values, size, across, rows.from, rows.to, result);
            for (int r = 0; r < rows.count; ++r) {
                T *to_row = out + (segment.first + rows.token[r]) * o_token + rows.head[r] * o_head;
                for (Size i = 0; i < size; i += WIDE) store(to_row + i, load(result + r * size + i) / total[r]);
            }
        }
    }
}

// One segment's part of the gradients: grad_q is written, those of the keys and values it sees are added to sum_k and sum_v [keys, size].
template <class T>
void attend_backward_one(const T *q, const T *k, const T *v, Size token, const T *grad, const float *log_total, T *grad_q, Size grad_token,
                         const Segment &segment, Size kv, const Heads &shape, float *sum_k, float *sum_v) {
    const Size per = shape.heads / shape.groups, size = shape.size, n = segment.before + segment.queries, across = padded(n);
    float *keys = scratch.take(across * size), *turned_keys = scratch.take(across * size), *turned_values = scratch.take(across * size);
    float *p = scratch.take(ROWS * across), *ds = scratch.take(ROWS * across);
    float *left = scratch.take(ROWS * size), *slope = scratch.take(ROWS * size), *result = scratch.take(ROWS * size);
    unpack_seen(k + kv * size, segment, token, 0, n, size, keys, turned_keys);
    unpack_seen(v + kv * size, segment, token, 0, n, size, nullptr, turned_values);
    for (Size row = 0; row < segment.queries * per; row += ROWS) {
        const Rows rows(segment, shape, kv, row, segment.queries * per);
        const Size to = padded(rows.to);
        gather(rows, q, segment.first, token, size, size, shape.scale, left);
        gather(rows, grad, segment.first, shape.heads * size, size, size, 1.f, slope);
        scores(left, turned_keys, size, across, rows.from, to, p);
        scores(slope, turned_values, size, across, rows.from, to, ds);
        for (int r = 0; r < ROWS; ++r) {
            if (r >= rows.count) {
                std::memset(p + r * across + rows.from, 0, sizeof(float) * (to - rows.from));
                std::memset(ds + r * across + rows.from, 0, sizeof(float) * (to - rows.from));
                continue;
            }
            // Probabilities are made to add up to 1 once more, so that a row's slopes add up to 0 as nearly as they can.
            float *weight = p + r * across, *change = ds + r * across;
            const float total = weigh(weight, rows.from, to, rows.low[r], rows.high[r],
                                      log_total[(segment.first + rows.token[r]) * shape.heads + rows.head[r]]);
            floats along = splat(0.f);
            for (Size t = rows.from; t < to; t += WIDE) along += load(weight + t) * load(change + t);
            const float once = 1.f / total, common = sum(along) * once;
            for (Size t = rows.from; t < to; t += WIDE) {
                const floats share = load(weight + t) * once;
                store(weight + t, share);
                store(change + t, share * (load(change + t) - common));
            }
        }
        spread(p, slope, size, across, rows.from, rows.to, sum_v);
        spread(ds, left, size, across, rows.from, rows.to, sum_k);  // `left` carries the scale
        mix(ds, keys, size, across, rows.from, rows.to, result);
        for (int r = 0; r < rows.count; ++r) {
            T *to_row = grad_q + (segment.first + rows.token[r]) * grad_token + rows.head[r] * size;
            for (Size i = 0; i < size; i += WIDE) store(to_row + i, load(result + r * size + i) * shape.scale);
        }
    }
}

// The gradients of `attend` within packed segments: keys and queries are the same tokens. grad [tokens, heads, size].
template <class T>
void attend_backward(const T *q, const T *k, const T *v, Size token, const T *grad, const float *log_total, T *grad_q,
                     T *grad_k, T *grad_v, Size grad_token, const Segment *segments, Size count, const Heads &shape, int threads) {
    // A segment that shares no keys, and those behind it that share its: one task a key head, since the prompt's gradients are of them all.
    std::vector<Size> starts;
    for (Size s = 0; s < count; ++s) if (!segments[s].shared) starts.push_back(s);
    starts.push_back(count);
    const Size size = shape.size;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Size task = 0; task < Size(starts.size() - 1) * shape.groups; ++task) {
        const Size kv = task % shape.groups, start = starts[task / shape.groups], end = starts[task / shape.groups + 1];
        const Size prompt = segments[start].queries;
        Size across = 0;
        for (Size s = start; s < end; ++s) across = std::max(across, padded(segments[s].before + segments[s].queries));
        const auto finish = [&](const float *sum, T *grads, Size first, Size n) {
            for (Size t = 0; t < n; ++t)
                for (Size i = 0; i < size; i += WIDE) store(grads + (first + t) * grad_token + kv * size + i, load(sum + t * size + i));
        };
        scratch.begin(5 * across * size + ROWS * (2 * across + 3 * size));
        float *sum_k = scratch.take(across * size), *sum_v = scratch.take(across * size);
        const auto kept = scratch.used;
        std::memset(sum_k, 0, sizeof(float) * prompt * size);
        std::memset(sum_v, 0, sizeof(float) * prompt * size);
        for (Size s = start; s < end; ++s) {
            const Segment &segment = segments[s];
            const Size own = s == start ? 0 : segment.queries;
            std::memset(sum_k + prompt * size, 0, sizeof(float) * own * size);
            std::memset(sum_v + prompt * size, 0, sizeof(float) * own * size);
            scratch.used = kept;
            attend_backward_one(q, k, v, token, grad, log_total, grad_q, grad_token, segment, kv, shape, sum_k, sum_v);
            finish(sum_k + prompt * size, grad_k, segment.first, own);
            finish(sum_v + prompt * size, grad_v, segment.first, own);
        }
        finish(sum_k, grad_k, segments[start].first, prompt);
        finish(sum_v, grad_v, segments[start].first, prompt);
    }
}

// One new token in each of `slots` slots: stores its key and value at `position` and attends to all up to there.
// q, new_k and new_v hold the heads of a row side by side; k and v: the cache [slots, groups, capacity, size].
template <class T>
void attend_next(const T *q, Size q_row, const T *new_k, const T *new_v, Size new_row, T *k, T *v, Size k_slot, Size k_head,
                 const Size *position, T *out, Size slots, const Heads &shape, int threads) {
    const Size per = shape.heads / shape.groups, size = shape.size;
    auto *attend_them = attend_one_for<T>(size, per);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (Size task = 0; task < slots * shape.groups; ++task) {
        const Size slot = task / shape.groups, kv = task % shape.groups;
        attend_slot(attend_them, q + slot * q_row + kv * per * size, new_k + slot * new_row + kv * size, new_v + slot * new_row + kv * size,
                    k + slot * k_slot + kv * k_head, v + slot * k_slot + kv * k_head, position[slot], out + (slot * shape.heads + kv * per) * size,
                    shape);
    }
}

}  // namespace

extern "C" {
EXPORT(attend)
EXPORT(attend_backward)
EXPORT(attend_next)
}
