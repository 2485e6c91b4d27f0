// What is done to one row at a time: RMSNorm, the gated activation, rotary positions.

#pragma once

#include "numbers.h"

namespace {

// out = weight * in / sqrt(mean(in^2) + eps), rounded before the weight as transformers does; out may be in. Returns 1 / the root.
template <class T> inline float norm_row(const T *in, const T *weight, T *out, Size size, float eps) {
    floats squares = splat(0.f);
    for (Size i = 0; i < size; i += WIDE) { floats v = load(in + i); squares += v * v; }
    const float scale = 1.f / std::sqrt(sum(squares) / float(size) + eps);
    for (Size i = 0; i < size; i += WIDE) store(out + i, load(weight + i) * kept<T>(load(in + i) * scale));
    return scale;
}

// silu(gate) * up
template <class T> inline floats gated(floats gate, floats up) { return kept<T>(gate * sigmoid(gate)) * up; }

// Turns `heads` heads in place by a row's cosines and sines; direction -1 turns them back.
template <class T> inline void rotate_row(T *x, Size heads, const T *c, const T *s, Size size, float direction) {
    const Size half = size / 2;
    for (Size head = 0; head < heads; ++head) {
        T *low = x + head * size, *high = low + half;
        for (Size i = 0; i < half; i += WIDE) {
            floats a = load(low + i), b = load(high + i);
            store(low + i, a * load(c + i) - b * load(s + i) * direction);
            store(high + i, b * load(c + half + i) + a * load(s + half + i) * direction);
        }
    }
}

}  // namespace
