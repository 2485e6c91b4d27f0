// Norms, gated activations and rotary positions of many rows.

#include "rows.h"

namespace {

// ---- RMSNorm ----------------------------------------------------------------------------------------------------------------------------

// inverse: 1 / the root of each row, or null.
template <class T>
void rms_norm(const T *x, Size x_row, const T *weight, T *y, float *inverse, Size rows, Size size, float eps, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size row = 0; row < rows; ++row) {
        const float scale = norm_row(x + row * x_row, weight, y + row * size, size, eps);
        if (inverse) inverse[row] = scale;
    }
}

template <class T>
void rms_norm_backward(const T *grad, const T *x, Size x_row, const T *weight, const float *inverse, T *grad_x, Size rows, Size size,
                       int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size row = 0; row < rows; ++row) {
        const T *g = grad + row * size, *in = x + row * x_row;
        floats along = splat(0.f);
        for (Size i = 0; i < size; i += WIDE) along += load(g + i) * load(weight + i) * load(in + i);
        float scale = inverse[row];
        float common = sum(along) * scale * scale * scale / float(size);
        for (Size i = 0; i < size; i += WIDE)
            store(grad_x + row * size + i, load(g + i) * load(weight + i) * scale - load(in + i) * common);
    }
}

// ---- SwiGLU -----------------------------------------------------------------------------------------------------------------------------

// y = silu(gate) * up; a row of `both` is gate, then up.
template <class T> void swiglu(const T *both, T *y, Size rows, Size size, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size row = 0; row < rows; ++row) {
        const T *gate = both + row * 2 * size, *up = gate + size;
        for (Size i = 0; i < size; i += WIDE) store(y + row * size + i, gated<T>(load(gate + i), load(up + i)));
    }
}

template <class T> void swiglu_backward(const T *grad, const T *both, T *grad_both, Size rows, Size size, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size row = 0; row < rows; ++row) {
        const T *gate = both + row * 2 * size, *up = gate + size;
        T *grad_gate = grad_both + row * 2 * size, *grad_up = grad_gate + size;
        for (Size i = 0; i < size; i += WIDE) {
            floats g = load(gate + i), s = sigmoid(g), d = load(grad + row * size + i);
            store(grad_gate + i, d * load(up + i) * s * (1.f + g * (1.f - s)));
            store(grad_up + i, d * g * s);
        }
    }
}

// ---- rotary positions -------------------------------------------------------------------------------------------------------------------

// Turns the first `heads` heads of each row in place by the row's cosines and sines [rows, size]; direction -1 turns them back.
template <class T>
void rotate(T *x, Size x_row, const T *cosine, const T *sine, Size rows, Size heads, Size size, float direction, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size row = 0; row < rows; ++row) rotate_row(x + row * x_row, heads, cosine + row * size, sine + row * size, size, direction);
}

}  // namespace

extern "C" {
EXPORT(rms_norm)
EXPORT(rms_norm_backward)
EXPORT(swiglu)
EXPORT(swiglu_backward)
EXPORT(rotate)
}
