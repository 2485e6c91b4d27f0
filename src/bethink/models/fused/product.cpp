// The product of rows with a weight that was laid out in tiles.

#include "product.h"

#ifdef PAIRS

// weight [out, in] -> tiles of its transpose [out / 32, in / 2, 32].
void tiles(const bfloat16 *weight, Size out, Size in, Pair *into, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Size first = 0; first < out; first += COLUMNS)
        for (Size p = 0; p < in / 2; ++p)
            for (Size c = 0; c < COLUMNS; ++c) into[(first / COLUMNS * (in / 2) + p) * COLUMNS + c] = pair_at(weight + (first + c) * in + 2 * p);
}

// y = x W^T + bias [rows, out]; bias may be null.
void product(const bfloat16 *x, Size x_row, Size rows, Size in, const Pair *weight, const bfloat16 *bias, bfloat16 *y, Size out, int threads) {
#pragma omp parallel num_threads(threads)
    put_product(x, x_row, rows, in, weight, bias, y, out);
}

extern "C" {
auto tiles_bfloat16 = &tiles;
auto product_bfloat16 = &product;
}

#endif
