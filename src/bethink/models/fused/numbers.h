// Sixteen numbers at a time, in either type, and room to work in: what the compiled operations are written with.
//
// The work between the matrix products on a CPU is a chain of passes over memory in torch, and in bfloat16 most passes also convert. Here
// each operation is one pass, in float32 registers. All tensors are read and written in place through strides (counted in elements); the
// last axis is contiguous. A row's result never depends on how many others are computed with it, nor on the number of threads.
//
// Compiled on the user's machine by build.py, once; without a compiler torch's own operations are used instead.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

using Size = std::int64_t;
struct bfloat16 { std::uint16_t bits; };

typedef float floats __attribute__((vector_size(64)));
typedef std::int32_t ints __attribute__((vector_size(64)));
typedef std::uint32_t words __attribute__((vector_size(64)));
typedef std::uint16_t halves __attribute__((vector_size(32)));
constexpr Size WIDE = 16;
constexpr ints LANES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <class To, class From> inline To bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline floats splat(float x) { return floats{} + x; }

inline floats load(const float *p) { floats x; std::memcpy(&x, p, sizeof x); return x; }
inline void store(float *p, floats x) { std::memcpy(p, &x, sizeof x); }

inline floats load(const bfloat16 *p) {
    halves x;
    std::memcpy(&x, p, sizeof x);
    return bits<floats>(__builtin_convertvector(x, words) << 16);
}

// To the nearest, ties to even; what is not a number stays so.
inline halves rounded(floats x) {
#ifdef __AVX512BF16__
    return bits<halves>(_mm512_cvtneps_pbh(bits<__m512>(x)));
#endif
    words w = bits<words>(x);
    words up = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16;
    return __builtin_convertvector(x == x ? up : (w >> 16) | 0x40u, halves);
}
inline void store(bfloat16 *p, floats x) { halves h = rounded(x); std::memcpy(p, &h, sizeof h); }

// What a number becomes when it is kept in type T.
template <class T> inline floats kept(floats x);
template <> inline floats kept<float>(floats x) { return x; }
template <> inline floats kept<bfloat16>(floats x) {
    return bits<floats>(__builtin_convertvector(rounded(x), words) << 16);
}

inline float one(const float *p) { return *p; }
inline float one(const bfloat16 *p) { return bits<float>(std::uint32_t(p->bits) << 16); }

inline float sum(floats x) {
    typedef float half __attribute__((vector_size(32)));
    typedef float quarter __attribute__((vector_size(16)));
    half h, i;
    std::memcpy(&h, &x, 32);
    std::memcpy(&i, reinterpret_cast<const char *>(&x) + 32, 32);
    h += i;
    quarter q, r;
    std::memcpy(&q, &h, 16);
    std::memcpy(&r, reinterpret_cast<const char *>(&h) + 16, 16);
    q += r;
    return (q[0] + q[2]) + (q[1] + q[3]);
}

inline floats larger(floats a, floats b) { return a > b ? a : b; }
inline float largest(floats x) {
    float m = x[0];
    for (int i = 1; i < WIDE; ++i) m = x[i] > m ? x[i] : m;
    return m;
}

// e^x: 2^n e^r with |r| <= ln 2 / 2 and e^r by its Taylor polynomial; relative error below 2e-7. Below -87 it is 0, above 88.72 infinite.
inline floats exponential(floats x) {
    floats clipped = x < splat(88.72f) ? x : splat(88.72f);
    const floats magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
    floats shifted = clipped * 1.44269504f + magic;
    floats n = shifted - magic;
    floats r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    floats y = splat(1.f / 5040.f);
    y = y * r + 1.f / 720.f;
    y = y * r + 1.f / 120.f;
    y = y * r + 1.f / 24.f;
    y = y * r + 1.f / 6.f;
    y = y * r + 0.5f;
    y = y * r + 1.f;
    y = y * r + 1.f;
    floats result = bits<floats>(bits<ints>(y) + (bits<ints>(shifted) << 23));
    result = x > splat(88.72f) ? splat(INFINITY) : result;
    return x < splat(-87.f) ? splat(0.f) : result;
}

inline floats sigmoid(floats x) { return 1.f / (1.f + exponential(-x)); }

// Memory that a thread keeps from call to call.
struct Scratch {
    std::vector<float> room;
    std::size_t used = 0;
    void begin(std::size_t most) { if (room.size() < most) room.resize(most); used = 0; }
    float *take(std::size_t n) { float *p = room.data() + used; used += n; return p; }
};
thread_local Scratch scratch;

}  // namespace

// Each function for either type, as a pointer that operations.py finds by name.
#define EXPORT(NAME) auto NAME##_float32 = &NAME<float>; auto NAME##_bfloat16 = &NAME<bfloat16>;
