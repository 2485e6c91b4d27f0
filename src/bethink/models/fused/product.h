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

// One piece of long sums, which wait in `sums` meanwhile.
template <int N>
__attribute__((noinline)) void piece_lines(const bfloat16 *x, Size x_row, Size pairs, const Pair *tile, const Pair *ahead, const bfloat16 *bias,
                                           bool first, bool last, float *waiting, bfloat16 *y, Size out) {
    floats sums[N][2];
    begin(sums, first ? bias : nullptr);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < 2; ++v)
            if (!first) sums[r][v] = load(waiting + r * out + v * WIDE);
    multiply(sums, x, x_row, pairs, tile, ahead);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < 2; ++v) {
            if (last) store(y + r * out + v * WIDE, sums[r][v]);
            else store(waiting + r * out + v * WIDE, sums[r][v]);
        }
}

thread_local Scratch waiting;

// y = x W^T + bias [rows, out]; bias may be null. Where rows are so long (a head's gradient) that few would stay in the cache, all are gone
// through piece by piece; the order of a sum is the same.
inline void put_product(const bfloat16 *x, Size x_row, Size rows, Size in, const Pair *weight, const bfloat16 *bias, bfloat16 *y, Size out) {
    constexpr Size PIECE = 2048;
    if (in <= 2 * PIECE) {
        each_tile(rows, in, out, weight, [&](auto count, Size row, Size column, const Pair *tile, const Pair *ahead) {
            product_lines<count>(x + row * x_row, x_row, in / 2, tile, ahead, bias ? bias + column : nullptr, y + row * out + column, out);
        });
        return;
    }
    const Size most = rows_at_once(PIECE), columns = out / COLUMNS;
    waiting.begin(most * out);
    float *sums = waiting.take(most * out);
    for (Size start = 0; start < rows; start += most) {
        const Size stop = start + most < rows ? start + most : rows;
        for (Size k = 0; k < in; k += PIECE) {
            const Size pairs = (k + PIECE < in ? PIECE : in - k) / 2;
#pragma omp for schedule(static) nowait
            for (Size c = 0; c < columns; ++c) {
                const Pair *tile = weight + (c * (in / 2) + k / 2) * COLUMNS;
                in_lines(start, stop, [&](auto count, Size row) {
                    const Pair *ahead = row == start && c + 1 < columns ? tile + in / 2 * COLUMNS : tile;
                    piece_lines<count>(x + row * x_row + k, x_row, pairs, tile, ahead, bias ? bias + c * COLUMNS : nullptr, k == 0, k + PIECE >= in,
                                       sums + (row - start) * out + c * COLUMNS, y + row * out + c * COLUMNS, out);
                });
            }
        }
    }
}

}  // namespace

#endif
