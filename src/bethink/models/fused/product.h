// The product of rows with a weight in tiles, for use within a parallel region.

#pragma once

#include "pairs.h"

#ifdef PAIRS

namespace {

template <int N> inline void begin(floats (&sums)[N][2], const bfloat16 *bias) {
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < 2; ++v) sums[r][v] = bias ? load(bias + v * WIDE) : floats{};
}

template <int N>
__attribute__((noinline)) void product_lines(const bfloat16 *x, Size x_row, Size pairs, const Pair *tile, const Pair *ahead, const bfloat16 *bias,
                                             bfloat16 *y, Size y_row) {
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r) __builtin_prefetch(y + r * y_row, 1);
    floats sums[N][2];
    begin(sums, bias);
    multiply(sums, x, x_row, pairs, tile, ahead);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < 2; ++v) store(y + r * y_row + v * WIDE, sums[r][v]);
}

// Calls work(number of rows as a constant, first row, first column, tile, what is read next) for all of `rows` x `out`, shared out among
// the threads of the region without waiting for them at the end. A thread has the same tiles for all rows.
template <class Work> inline void each_tile(Size rows, Size in, Size out, const Pair *weight, const Work &work) {
    const Size most = rows_at_once(in), columns = out / COLUMNS, tile_size = in / 2 * COLUMNS;
    for (Size start = 0; start < rows; start += most) {
        const Size stop = start + most < rows ? start + most : rows;
#pragma omp for schedule(static) nowait
        for (Size c = 0; c < columns; ++c) {
            const Pair *tile = weight + c * tile_size;
            in_lines(start, stop, [&](auto count, Size row) {
                work(count, row, c * COLUMNS, tile, row == start && c + 1 < columns ? tile + tile_size : tile);
            });
        }
    }
}

// y = x W^T + bias [rows, out]; bias may be null.
inline void put_product(const bfloat16 *x, Size x_row, Size rows, Size in, const Pair *weight, const bfloat16 *bias, bfloat16 *y, Size out) {
    each_tile(rows, in, out, weight, [&](auto count, Size row, Size column, const Pair *tile, const Pair *ahead) {
        product_lines<count>(x + row * x_row, x_row, in / 2, tile, ahead, bias ? bias + column : nullptr, y + row * out + column, out);
    });
}

}  // namespace

#endif
