// One more token in each of some slots, through all layers of a Llama-like model in one call.
//
// A decoding step is little work in many pieces, which takes longer to ask for from Python than to do.

#include "cached.h"
#include "pairs.h"
#include "product.h"
#include "rows.h"

#ifdef PAIRS

namespace {

struct Linear { const Pair *weight; const bfloat16 *bias; Size in, out; };

struct Norm { const bfloat16 *weight; float eps; };  // weight null: there is none

struct Layer {
    Norm before_attention, of_queries, of_keys, before_mlp;
    Linear joint, output, gate_up, down;  // queries, keys and values; gate and up
    bfloat16 *keys, *values;              // cache [slots, groups, capacity, head size]
    float scale;
    Size window;
};

struct Decoder {
    const Layer *layers;
    Size count, heads, groups, head_size, hidden, slot_stride, head_stride;
    Norm norm;
    Linear head;
};

template <int N>
__attribute__((noinline)) void added_lines(const bfloat16 *x, Size x_row, Size pairs, const Pair *tile, const Pair *ahead, const bfloat16 *bias,
                                           bfloat16 *y, Size y_row) {
    floats sums[N][2];
    begin(sums, bias);
    multiply(sums, x, x_row, pairs, tile, ahead);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < 2; ++v) store(y + r * y_row + v * WIDE, load(y + r * y_row + v * WIDE) + kept<bfloat16>(sums[r][v]));
}

template <int N>
__attribute__((noinline)) void gated_lines(const bfloat16 *x, Size x_row, Size pairs, const Pair *gate, const Pair *up, const Pair *ahead,
                                           const bfloat16 *gate_bias, const bfloat16 *up_bias, bfloat16 *y, Size y_row) {
    floats gates[N][2], ups[N][2];
    begin(gates, gate_bias);
    multiply(gates, x, x_row, pairs, gate, up);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < 2; ++v) store(y + r * y_row + v * WIDE, gates[r][v]);
    begin(ups, up_bias);
    multiply(ups, x, x_row, pairs, up, ahead);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r)
        for (int v = 0; v < 2; ++v) {
            bfloat16 *at = y + r * y_row + v * WIDE;
            store(at, gated<bfloat16>(load(at), kept<bfloat16>(ups[r][v])));
        }
}

// y += x W^T + bias, the product rounded first, as a layer of its own would.
void add_product(const bfloat16 *x, Size rows, const Linear &linear, bfloat16 *y) {
    each_tile(rows, linear.in, linear.out, linear.weight, [&](auto count, Size row, Size column, const Pair *tile, const Pair *ahead) {
        added_lines<count>(x + row * linear.in, linear.in, linear.in / 2, tile, ahead, linear.bias ? linear.bias + column : nullptr,
                           y + row * linear.out + column, linear.out);
    });
}

// y = silu(gate) * up of the two halves of one linear layer.
void gated_product(const bfloat16 *x, Size rows, const Linear &linear, bfloat16 *y) {
    const Size half = linear.out / 2, pairs = linear.in / 2;
    each_tile(rows, linear.in, half, linear.weight, [&](auto count, Size row, Size column, const Pair *tile, const Pair *ahead) {
        gated_lines<count>(x + row * linear.in, linear.in, pairs, tile, tile + half * pairs, ahead, linear.bias ? linear.bias + column : nullptr,
                           linear.bias ? linear.bias + half + column : nullptr, y + row * half + column, half);
    });
}

void norm_rows(const bfloat16 *x, Size rows, Size size, const Norm &norm, bfloat16 *y) {
#pragma omp for schedule(static)
    for (Size row = 0; row < rows; ++row) norm_row(x + row * size, norm.weight, y + row * size, size, norm.eps);
}

thread_local Scratch between;

bfloat16 *take_row(Size n) { return reinterpret_cast<bfloat16 *>(between.take((n + 1) / 2)); }

}  // namespace

// x [rows, hidden]: the tokens' embeddings, which are written over. cosine, sine [rows, head size]; position [rows]; logits [rows, vocabulary].
void decode(const Decoder &model, bfloat16 *x, const bfloat16 *cosine, const bfloat16 *sine, const Size *position, bfloat16 *logits, Size rows,
            int threads) {
    const Size size = model.head_size, per = model.heads / model.groups, wide = (model.heads + 2 * model.groups) * size;
    Size inner = 0;
    for (Size l = 0; l < model.count; ++l) inner = model.layers[l].down.in > inner ? model.layers[l].down.in : inner;
    between.begin(rows * (model.hidden + wide + model.heads * size + inner) / 2 + 4);
    bfloat16 *normed = take_row(rows * model.hidden), *joint = take_row(rows * wide), *mixed = take_row(rows * model.heads * size);
    bfloat16 *active = take_row(rows * inner);
    auto *attend_them = attend_one_for<bfloat16>(size, per);
#pragma omp parallel num_threads(threads)
    {
        for (Size l = 0; l < model.count; ++l) {
            const Layer &layer = model.layers[l];
            const Heads shape = {model.heads, model.groups, size, layer.scale, layer.window};
            norm_rows(x, rows, model.hidden, layer.before_attention, normed);
            put_product(normed, model.hidden, rows, layer.joint.in, layer.joint.weight, layer.joint.bias, joint, layer.joint.out);
#pragma omp barrier
#pragma omp for schedule(dynamic, 2)
            for (Size task = 0; task < rows * model.groups; ++task) {
                const Size slot = task / model.groups, kv = task % model.groups;
                bfloat16 *q = joint + slot * wide + kv * per * size, *k = joint + slot * wide + (model.heads + kv) * size;
                if (layer.of_queries.weight)
                    for (Size h = 0; h < per; ++h) norm_row(q + h * size, layer.of_queries.weight, q + h * size, size, layer.of_queries.eps);
                if (layer.of_keys.weight) norm_row(k, layer.of_keys.weight, k, size, layer.of_keys.eps);
                rotate_row(q, per, cosine + slot * size, sine + slot * size, size, 1.f);
                rotate_row(k, 1, cosine + slot * size, sine + slot * size, size, 1.f);
                const Size place = slot * model.slot_stride + kv * model.head_stride;
                attend_slot(attend_them, q, k, k + model.groups * size, layer.keys + place, layer.values + place, position[slot],
                            mixed + (slot * model.heads + kv * per) * size, shape);
            }
            add_product(mixed, rows, layer.output, x);
#pragma omp barrier
            norm_rows(x, rows, model.hidden, layer.before_mlp, normed);
            gated_product(normed, rows, layer.gate_up, active);
#pragma omp barrier
            add_product(active, rows, layer.down, x);
#pragma omp barrier
        }
        norm_rows(x, rows, model.hidden, model.norm, normed);
        put_product(normed, model.hidden, rows, model.head.in, model.head.weight, model.head.bias, logits, model.head.out);
    }
}

extern "C" {
auto decode_bfloat16 = &decode;
}

#endif
