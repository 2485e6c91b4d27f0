// Attention of one new token to the cached keys and values of its slot.

#pragma once

#include "numbers.h"

namespace {

// H query heads share K key heads in groups. Of the keys that a query may see it sees the last `window`, where there is a window.
struct Heads { Size heads, groups, size; float scale; Size window; };

inline Size padded(Size n) { return (n + 31) / 32 * 32; }

// Keeps of one row of scores what lies in [low, high), as e^(score - minus); the rest becomes 0. Returns the sum.
inline float weigh(float *score, Size from, Size to, Size low, Size high, float minus) {
    floats total = splat(0.f);
    for (Size t = from; t < to; t += WIDE) {
        if (t >= low && t + WIDE <= high) {
            floats p = exponential(load(score + t) - minus);
            total += p;
            store(score + t, p);
        } else {
            const ints place = LANES + std::int32_t(t);
            const floats p = place >= std::int32_t(low) & place < std::int32_t(high) ? exponential(load(score + t) - minus) : splat(0.f);
            total += p;
            store(score + t, p);
        }
    }
    return sum(total);
}

inline float highest(const float *score, Size low, Size high) {
    Size t = low;
    float m = -INFINITY;
    if (high - low >= WIDE) {
        floats best = load(score + t);
        for (t += WIDE; t + WIDE <= high; t += WIDE) best = larger(best, load(score + t));
        m = largest(best);
    }
    for (; t < high; ++t) m = score[t] > m ? score[t] : m;
    return m;
}

// One key head of one slot: the query heads that share it, over n keys. AT_ONCE of them are worked on together, so that a key is converted
// once; V: the head size in vectors, or 0 for any.
template <class T, int V, int AT_ONCE>
void attend_one(const T *q, const T *keys, const T *values, Size n, Size per, Size any_size, float scale, T *out) {
    const Size size = V ? V * WIDE : any_size, across = padded(n);
    scratch.begin(per * (across + size));
    float *score = scratch.take(per * across), *left = scratch.take(per * size);
    for (Size i = 0; i < per * size; i += WIDE) store(left + i, load(q + i) * scale);
    for (Size h = 0; h < per; h += AT_ONCE) {
        float *line = score + h * across;
        const float *query = left + h * size;
        for (Size t = 0; t < n; ++t) {
            // The values are wanted next: reading both halves of the cache at once hides half of the wait for memory.
            for (Size i = 0; i < size; i += 64 / Size(sizeof(T))) __builtin_prefetch(values + t * size + i);
            floats total[AT_ONCE] = {};
            for (Size i = 0; i < size; i += WIDE) {
                const floats key = load(keys + t * size + i);
                for (int g = 0; g < AT_ONCE; ++g) total[g] += load(query + g * size + i) * key;
            }
            for (int g = 0; g < AT_ONCE; ++g) line[g * across + t] = sum(total[g]);
        }
        float all[AT_ONCE];
        for (int g = 0; g < AT_ONCE; ++g) {
            std::memset(line + g * across + n, 0, sizeof(float) * (across - n));
            all[g] = weigh(line + g * across, 0, across, 0, n, highest(line + g * across, 0, n));
        }
        constexpr int PART = V ? 4 : 1;  // vectors of a head in a pass
        for (Size i = 0; i < size; i += PART * WIDE) {
            floats total[AT_ONCE][PART] = {};
            for (Size t = 0; t < n; ++t)
                for (int j = 0; j < PART; ++j) {
                    const floats value = load(values + t * size + i + j * WIDE);
                    for (int g = 0; g < AT_ONCE; ++g) total[g][j] += line[g * across + t] * value;
                }
            for (int g = 0; g < AT_ONCE; ++g)
                for (int j = 0; j < PART; ++j) store(out + (h + g) * size + i + j * WIDE, total[g][j] / all[g]);
        }
    }
}

template <class T> using AttendOne = void(const T *, const T *, const T *, Size, Size, Size, float, T *);

template <class T, int V> AttendOne<T> *attend_one_of(Size per) {
    return per % 4 == 0 ? attend_one<T, V, 4> : per % 3 == 0 ? attend_one<T, V, 3> : per % 2 == 0 ? attend_one<T, V, 2> : attend_one<T, V, 1>;
}

template <class T> AttendOne<T> *attend_one_for(Size size, Size per) {
    return size == 64 ? attend_one_of<T, 4>(per) : size == 128 ? attend_one_of<T, 8>(per) : attend_one_of<T, 0>(per);
}

// Stores the new token's key and value at `position` of one key head's cache and attends to all up to there.
template <class T>
void attend_slot(AttendOne<T> *attend_them, const T *q, const T *new_key, const T *new_value, T *keys, T *values, Size position, T *out,
                 const Heads &shape) {
    const Size size = shape.size, n = position + 1, low = shape.window > 0 && n > shape.window ? n - shape.window : 0;
    std::memcpy(keys + position * size, new_key, sizeof(T) * size);
    std::memcpy(values + position * size, new_value, sizeof(T) * size);
    attend_them(q, keys + low * size, values + low * size, n - low, shape.heads / shape.groups, size, shape.scale, out);
}

}  // namespace
