// Low-rank adapters beside a frozen product: y += s x A^T B^T and its gradients (Hu et al. 2021, arXiv 2106.09685), in bfloat16.
//
// The matrix library is made for wide products. These are as thin as the adapter's rank, and what surrounds them (casting and joining the
// float32 matrices, adding into the wide product, casting gradients back) costs as much as they do. Here all of it is one call. Sums are
// float32 in the registers; gradients leave as float32. A sum over rows is formed by one thread, so results do not depend on their number.

#include "pairs.h"

#ifdef PAIRS

namespace {

// One linear layer's: a [rank, in] and b [out, rank]. A call works on layers that read one input, with outputs side by side. In `inner`,
// what lies between a and b, each has columns of its own, from `column` on: as many as its rank, filled up with zeros to a multiple of 16.
struct Adapter { const float *a, *b; float *grad_a, *grad_b; Size rank, out; float scale; };

struct Place { Size column, wide, first; };  // in `inner`; of its output

constexpr int ROWS = 6;      // a tile of sums, with 32 columns: 12 registers
constexpr Size CHUNK = 16;   // pairs packed at a time
constexpr Size DEEP = 256;   // rows summed over before the sums go back to memory

std::vector<Place> places(const Adapter *adapters, Size count) {
    std::vector<Place> found;
    Size column = 0, first = 0;
    for (Size j = 0; j < count; ++j) {
        const Size wide = (adapters[j].rank + WIDE - 1) / WIDE * WIDE;
        found.push_back({column, wide, first});
        column += wide;
        first += adapters[j].out;
    }
    return found;
}

// packed[p][i] = s (m[i][2p], m[i][2p+1]) for the pairs p of chunk `chunk`; what lies outside m [lines, size] is 0.
void pack_across(const float *m, Size lines, Size size, float s, Size chunk, Size pairs, Size wide, Size stride, Pair *packed) {
    const Size from = chunk * CHUNK, to = from + CHUNK < pairs ? from + CHUNK : pairs;
    for (Size i = 0; i < wide; ++i) {
        float line[2 * CHUNK] = {};
        const Size most = i >= lines ? 0 : size - 2 * from < 2 * CHUNK ? size - 2 * from : 2 * CHUNK;
        for (Size k = 0; k < most; ++k) line[k] = m[i * size + 2 * from + k] * s;
        bfloat16 narrow[2 * CHUNK];
        store(narrow, load(line));
        store(narrow + WIDE, load(line + WIDE));
        for (Size p = from; p < to; ++p) packed[p * stride + i] = pair_at(narrow + 2 * (p - from));
    }
}

// packed[p][i] = s (m[2p][i], m[2p+1][i]), likewise.
void pack_down(const float *m, Size lines, Size size, float s, Size chunk, Size pairs, Size wide, Size stride, Pair *packed) {
    const Size from = chunk * CHUNK, to = from + CHUNK < pairs ? from + CHUNK : pairs;
    for (Size p = from; p < to; ++p)
        for (Size i = 0; i < wide; i += WIDE) {
            floats both[2] = {};
            for (Size h = 0; h < 2 && 2 * p + h < lines; ++h) {
                const float *at = m + (2 * p + h) * size + i;
                if (i + WIDE <= size) both[h] = load(at) * s;
                else for (Size k = 0; k < size - i; ++k) both[h][k] = at[k] * s;
            }
            const words x = paired(both[0], both[1]);
            std::memcpy(packed + p * stride + i, &x, sizeof x);
        }
}

inline Size chunks(Size pairs) { return (pairs + CHUNK - 1) / CHUNK; }

// The rows of a tile; where there are fewer than ROWS, the last stands for the others.
template <class T> struct Lines {
    T *at[ROWS];
    Lines(T *from, Size row, Size first, Size count) {
        for (int r = 0; r < ROWS; ++r) at[r] = from + (first + (r < count ? r : count - 1)) * row;
    }
};

// Sums of x[r][2p, 2p+1] packed[p][c] over the pairs, added to `total`.
template <int V> inline void multiply_lines(const Lines<const bfloat16> &x, Size pairs, const Pair *packed, Size stride, floats (&total)[ROWS][V]) {
    for (Size p = 0; p < pairs; ++p) {
        words right[V];
        for (int v = 0; v < V; ++v) right[v] = load(packed + p * stride + v * WIDE);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r) {
            const words left = words{} + pair_at(x.at[r] + 2 * p);
            for (int v = 0; v < V; ++v) total[r][v] = dot(total[r][v], left, right[v]);
        }
    }
}

template <int V> inline void narrow_tile(const Lines<const bfloat16> &x, Size pairs, const Pair *packed, Size stride, const Lines<bfloat16> &out,
                                         Size column, Size count) {
    floats total[ROWS][V] = {};
    multiply_lines<V>(x, pairs, packed + column, stride, total);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < V; ++v)
            if (r < count) store(out.at[r] + column + v * WIDE, total[r][v]);
}

// out[r][c] = sum over k of x[r][k] m[k][c], for `wide` columns.
void narrow(const Lines<const bfloat16> &x, Size pairs, const Pair *packed, Size stride, Size wide, const Lines<bfloat16> &out, Size count) {
    Size column = 0;
    for (; column + COLUMNS <= wide; column += COLUMNS) narrow_tile<2>(x, pairs, packed, stride, out, column, count);
    if (column < wide) narrow_tile<1>(x, pairs, packed, stride, out, column, count);
}

// y[r][c] += sum over k of inner[r][k] m[k][c], for `wide` columns, a multiple of 32.
void widen(const Lines<const bfloat16> &inner, Size pairs, const Pair *packed, Size wide, const Lines<bfloat16> &y, Size count) {
    for (Size column = 0; column < wide; column += COLUMNS) {
        floats total[ROWS][2];
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < 2; ++v) total[r][v] = load(y.at[r] + column + v * WIDE);
        multiply_lines<2>(inner, pairs, packed + column, wide, total);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < 2; ++v)
                if (r < count) store(y.at[r] + column + v * WIDE, total[r][v]);
    }
}

// Two rows of 32 bfloat16, as pairs.
inline void interleave(const bfloat16 *low, const bfloat16 *high, Pair *out) {
    constexpr std::uint16_t H = 32;
    alignas(64) static const std::uint16_t first[32] = {0, H, 1, H + 1, 2, H + 2, 3, H + 3, 4, H + 4, 5, H + 5, 6, H + 6, 7, H + 7,
        8, H + 8, 9, H + 9, 10, H + 10, 11, H + 11, 12, H + 12, 13, H + 13, 14, H + 14, 15, H + 15};
    const __m512i at = _mm512_load_si512(first), l = _mm512_loadu_si512(low), h = high ? _mm512_loadu_si512(high) : __m512i{};
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(l, at, h));
    _mm512_storeu_si512(out + WIDE, _mm512_permutex2var_epi16(l, _mm512_add_epi16(at, _mm512_set1_epi16(16)), h));
}

// inner [rows, stride] as pairs of rows [rows / 2, stride]; the partner of an odd last row is 0. One pair of rows.
void pair_rows(const bfloat16 *inner, Size rows, Size stride, Size p, Pair *packed) {
    for (Size c = 0; c < stride; c += WIDE) {
        const bfloat16 *at = inner + 2 * p * stride + c;
        const words x = paired(load(at), 2 * p + 1 < rows ? load(at + stride) : floats{});
        std::memcpy(packed + p * stride + c, &x, sizeof x);
    }
}

// sum[r][c] = sum over rows n of left[n][r] right[n][c], for `wide` r and 32 c.
void sum_rows(const Pair *left, Size left_stride, Size wide, const bfloat16 *right, Size right_row, Size rows, float *sum) {
    constexpr int AT_ONCE = 8;
    alignas(64) Pair packed[DEEP / 2 * COLUMNS];
    std::memset(sum, 0, sizeof(float) * wide * COLUMNS);
    for (Size start = 0; start < rows; start += DEEP) {
        const Size stop = start + DEEP < rows ? start + DEEP : rows, pairs = (stop - start + 1) / 2;
        for (Size p = 0; p < pairs; ++p) {
            const Size n = start + 2 * p;
            interleave(right + n * right_row, n + 1 < rows ? right + (n + 1) * right_row : nullptr, packed + p * COLUMNS);
        }
        for (Size r = 0; r < wide; r += AT_ONCE) {
            floats total[AT_ONCE][2];
            for (int i = 0; i < AT_ONCE; ++i)
                for (int v = 0; v < 2; ++v) total[i][v] = load(sum + (r + i) * COLUMNS + v * WIDE);
            const Pair *line = left + start / 2 * left_stride + r;
            for (Size p = 0; p < pairs; ++p, line += left_stride) {
                // The rows that come next lie far apart, where the processor does not look ahead by itself.
                if (r == 0)
                    for (Size n = stop + 2 * p; n < stop + 2 * p + 2 && n < rows; ++n) __builtin_prefetch(right + n * right_row);
                const words a = load(packed + p * COLUMNS), b = load(packed + p * COLUMNS + WIDE);
#pragma GCC unroll 8
                for (int i = 0; i < AT_ONCE; ++i) {
                    const words x = words{} + line[i];
                    total[i][0] = dot(total[i][0], x, a);
                    total[i][1] = dot(total[i][1], x, b);
                }
            }
            for (int i = 0; i < AT_ONCE; ++i)
                for (int v = 0; v < 2; ++v) store(sum + (r + i) * COLUMNS + v * WIDE, total[i][v]);
        }
    }
}

thread_local Scratch matrices;  // of the calling thread: what all of them read

Pair *take_pairs(std::size_t n) { return reinterpret_cast<Pair *>(matrices.take(n)); }

}  // namespace

// inner = x A^T [rows, inner_row]; y += s inner B^T. x [rows, in], y [rows, sum of out].
void adapt(const bfloat16 *x, Size x_row, Size rows, Size in, const Adapter *adapters, Size count, bfloat16 *inner, Size inner_row, bfloat16 *y,
           Size y_row, int threads) {
    const std::vector<Place> place = places(adapters, count);
    std::size_t room = in / 2 * inner_row;
    for (Size j = 0; j < count; ++j) room += place[j].wide / 2 * adapters[j].out;
    matrices.begin(room);
    Pair *a = take_pairs(in / 2 * inner_row);
    std::vector<Pair *> b;
    for (Size j = 0; j < count; ++j) b.push_back(take_pairs(place[j].wide / 2 * adapters[j].out));
#pragma omp parallel num_threads(threads)
    {
        for (Size j = 0; j < count; ++j) {
            const Adapter &it = adapters[j];
#pragma omp for schedule(static) nowait
            for (Size c = 0; c < chunks(in / 2); ++c)
                pack_across(it.a, it.rank, in, 1.f, c, in / 2, place[j].wide, inner_row, a + place[j].column);
#pragma omp for schedule(static) nowait
            for (Size t = 0; t < it.out; t += COLUMNS)
                for (Size c = 0; c < chunks(place[j].wide / 2); ++c)
                    pack_across(it.b + t * it.rank, COLUMNS, it.rank, it.scale, c, place[j].wide / 2, COLUMNS, it.out, b[j] + t);
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (Size row = 0; row < rows; row += ROWS) {
            const Size most = row + ROWS < rows ? ROWS : rows - row;
            const Lines<bfloat16> between(inner, inner_row, row, most);
            narrow(Lines<const bfloat16>(x, x_row, row, most), in / 2, a, inner_row, inner_row, between, most);
            for (Size j = 0; j < count; ++j)
                widen(Lines<const bfloat16>(inner + place[j].column, inner_row, row, most), place[j].wide / 2, b[j], adapters[j].out,
                      Lines<bfloat16>(y + place[j].first, y_row, row, most), most);
        }
    }
}

// grad [rows, sum of out] is that of y. Writes the gradients of each A and B; grad_x, where given, gets the adapters' part added.
void adapt_backward(const bfloat16 *x, Size x_row, const bfloat16 *inner, const bfloat16 *grad, Size grad_row, Size rows, Size in,
                    const Adapter *adapters, Size count, Size inner_row, bfloat16 *grad_x, Size grad_x_row, int threads) {
    const std::vector<Place> place = places(adapters, count);
    const Size pairs = (rows + 1) / 2;
    std::size_t room = inner_row / 2 * in + 2 * pairs * inner_row + (rows * inner_row + 1) / 2;
    for (Size j = 0; j < count; ++j) room += place[j].wide * adapters[j].out / 2;
    matrices.begin(room);
    Pair *a = take_pairs(inner_row / 2 * in), *inner_pairs = take_pairs(pairs * inner_row), *grad_pairs = take_pairs(pairs * inner_row);
    bfloat16 *grad_inner = reinterpret_cast<bfloat16 *>(take_pairs((rows * inner_row + 1) / 2));
    std::vector<Pair *> b;
    for (Size j = 0; j < count; ++j) b.push_back(take_pairs(place[j].wide * adapters[j].out / 2));
    const Size outs = place[count - 1].first + adapters[count - 1].out;
#pragma omp parallel num_threads(threads)
    {
        for (Size j = 0; j < count; ++j) {
            const Adapter &it = adapters[j];
#pragma omp for schedule(static) nowait
            for (Size t = 0; t < in; t += COLUMNS)
                for (Size c = 0; c < chunks(place[j].wide / 2); ++c)
                    pack_down(it.a + t, it.rank, in, 1.f, c, place[j].wide / 2, COLUMNS, in, a + place[j].column / 2 * in + t);
#pragma omp for schedule(static) nowait
            for (Size c = 0; c < chunks(it.out / 2); ++c)
                pack_down(it.b, it.out, it.rank, it.scale, c, it.out / 2, place[j].wide, place[j].wide, b[j]);
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (Size row = 0; row < rows; row += ROWS) {
            const Size most = row + ROWS < rows ? ROWS : rows - row;
            for (Size j = 0; j < count; ++j)
                narrow(Lines<const bfloat16>(grad + place[j].first, grad_row, row, most), adapters[j].out / 2, b[j], place[j].wide, place[j].wide,
                       Lines<bfloat16>(grad_inner + place[j].column, inner_row, row, most), most);
            if (grad_x)
                widen(Lines<const bfloat16>(grad_inner, inner_row, row, most), inner_row / 2, a, in, Lines<bfloat16>(grad_x, grad_x_row, row, most),
                      most);
        }
#pragma omp for schedule(static)
        for (Size p = 0; p < pairs; ++p) {
            pair_rows(inner, rows, inner_row, p, inner_pairs);
            pair_rows(grad_inner, rows, inner_row, p, grad_pairs);
        }
        // First the columns of x, for every A; then those of the outputs, for each its B.
#pragma omp for schedule(dynamic)
        for (Size column = 0; column < in + outs; column += COLUMNS) {
            scratch.begin(inner_row * COLUMNS);
            float *sum = scratch.take(inner_row * COLUMNS);
            if (column < in) {
                sum_rows(grad_pairs, inner_row, inner_row, x + column, x_row, rows, sum);
                for (Size j = 0; j < count; ++j)
                    for (Size r = 0; r < adapters[j].rank; ++r)
                        std::memcpy(adapters[j].grad_a + r * in + column, sum + (place[j].column + r) * COLUMNS, sizeof(float) * COLUMNS);
                continue;
            }
            Size j = 0, at = column - in;
            while (at >= place[j].first + adapters[j].out) ++j;
            const Adapter &it = adapters[j];
            sum_rows(inner_pairs + place[j].column, inner_row, place[j].wide, grad + at, grad_row, rows, sum);
            for (Size c = 0; c < COLUMNS; ++c)
                for (Size r = 0; r < it.rank; ++r) it.grad_b[(at - place[j].first + c) * it.rank + r] = sum[r * COLUMNS + c] * it.scale;
        }
    }
}

extern "C" {
auto adapt_bfloat16 = &adapt;
auto adapt_backward_bfloat16 = &adapt_backward;
}

#endif
