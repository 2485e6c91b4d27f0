// Products of bfloat16 matrices, for processors that multiply pairs of them in vector registers (AVX512-BF16).
//
// Those with tile registers (AMX) are left to the matrix library, which uses them.

#pragma once

#include "numbers.h"

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define PAIRS

namespace {

// Two bfloat16 that are multiplied together, as one number. A matrix [K, 32 n] is kept as n tiles [K / 2, 32] of pairs along K, so that what
// is multiplied together lies together.
using Pair = std::uint32_t;
constexpr int COLUMNS = 32;  // of a tile: two registers
constexpr int LINES = 8;     // rows worked on together: 8 x 32 sums are half of the registers

inline words load(const Pair *p) { words x; std::memcpy(&x, p, sizeof x); return x; }
inline Pair pair_at(const bfloat16 *p) { Pair x; std::memcpy(&x, p, sizeof x); return x; }
inline floats dot(floats total, words a, words b) {
    return bits<floats>(_mm512_dpbf16_ps(bits<__m512>(total), bits<__m512bh>(a), bits<__m512bh>(b)));
}
inline words paired(floats low, floats high) {  // lane i: (low[i], high[i])
    return __builtin_convertvector(rounded(low), words) | __builtin_convertvector(rounded(high), words) << 16;
}

// Adds x[r][2p, 2p+1] tile[p] for all pairs p. Each sum is formed in the same order whatever N is. ahead: what is read next, of a tile's
// size: it is fetched meanwhile, since the processor itself does not look beyond a page.
template <int N>
inline void multiply(floats (&sums)[N][2], const bfloat16 *x, Size x_row, Size pairs, const Pair *tile, const Pair *ahead) {
    for (Size p = 0; p < pairs; ++p) {
        for (int v = 0; v < 2; ++v) __builtin_prefetch(ahead + p * COLUMNS + v * WIDE, 0, 2);
        words right[2];
        for (int v = 0; v < 2; ++v) right[v] = load(tile + p * COLUMNS + v * WIDE);
#pragma GCC unroll 8
        for (int r = 0; r < N; ++r) {
            const words left = words{} + pair_at(x + r * x_row + 2 * p);
            for (int v = 0; v < 2; ++v) sums[r][v] = dot(sums[r][v], left, right[v]);
        }
    }
}

// Calls work(number of rows as a constant, first row), as many rows as fit at a time. What it calls must not be inlined: compilers keep
// sums in registers in a function of their own, and not among others.
template <class Work> inline void in_lines(Size first, Size last, const Work &work) {
    for (; first + LINES <= last; first += LINES) work(std::integral_constant<int, LINES>(), first);
    if (first + 4 <= last) { work(std::integral_constant<int, 4>(), first); first += 4; }
    if (first + 2 <= last) { work(std::integral_constant<int, 2>(), first); first += 2; }
    if (first < last) work(std::integral_constant<int, 1>(), first);
}

// How many rows of K numbers stay in a core's cache beside a tile.
inline Size rows_at_once(Size in) {
    const Size fit = (Size(1) << 18) / in / LINES * LINES;
    return fit > LINES ? fit : LINES;
}

}  // namespace

#endif
