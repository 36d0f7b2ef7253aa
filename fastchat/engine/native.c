/* What the slot engine computes on a CPU without PyTorch: one token's attention over its own keys,
 * each row's product by its own adapter, norms in one pass.
 *
 * PyTorch has no kernel for many sequences of different lengths with one query each; its batched
 * products read a cache at a third of the speed at which these loops do. Built when the package is
 * installed, where there is a C compiler (`setup.py`); `native.py` is the only caller and checks
 * shapes and types. Numbers are float32 or, where `is_half`, bfloat16; sums are float32.
 *
 * A pool holds regions, each [heads, size, dim]; a region starts at token `start` of the pool.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
/* Compiled once for each kind of processor; the one at hand is chosen at loading. */
#if !defined(__x86_64__)
#define FOR_EACH_CPU
#elif defined(__clang__)
#error "for the oldest x86-64 alone this would be slower than what PyTorch does"
#elif __GNUC__ >= 12
#define FOR_EACH_CPU \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

/* A token's place: row of the step, start and size of its region, its own place, first key seen. */
enum { ROW, START, SIZE, PLACE, LOW, N_COLUMNS };

typedef union {
    uint32_t bits;
    float value;
} word;

INLINE float load(const void *numbers, int64_t i, int is_half) {
    if (!is_half) return ((const float *)numbers)[i];
    word w = {.bits = (uint32_t)((const uint16_t *)numbers)[i] << 16};
    return w.value;
}

/* To the nearest, ties to even; not-a-number stays one. */
INLINE void store(void *numbers, int64_t i, float value, int is_half) {
    if (!is_half) {
        ((float *)numbers)[i] = value;
        return;
    }
    word w = {.value = value};
    uint32_t rounded = (w.bits + 0x7fff + ((w.bits >> 16) & 1)) >> 16;
    int is_nan = (w.bits & 0x7fffffff) > 0x7f800000;
    ((uint16_t *)numbers)[i] = (uint16_t)(is_nan ? 0x7fc0 : rounded);
}

/* exp of a number that is not above 0, within 2e-7 of it: 2^n times a polynomial (Cephes). */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = floorf(x * 1.44269504f + 0.5f);
    float rest = x - n * 0.693359375f + n * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    word power = {.bits = (uint32_t)((int32_t)n + 127) << 23};
    return sum * power.value;
}

/* Scores to weights that sum to 1, a sink's share left out. */
INLINE void softmax(float *scores, int64_t n, float cap, const float *sink) {
    float top = sink ? *sink : -INFINITY, sum = 0;
    if (cap > 0)
        for (int64_t j = 0; j < n; j++) scores[j] = cap * tanhf(scores[j] / cap);
    for (int64_t j = 0; j < n; j++) top = scores[j] > top ? scores[j] : top;
    for (int64_t j = 0; j < n; j++) {
        float weight = exponential(scores[j] - top);
        scores[j] = weight;
        sum += weight;
    }
    if (sink) sum += exponential(*sink - top);
    for (int64_t j = 0; j < n; j++) scores[j] /= sum;
}

/* One query, [dim], over n keys and values of its head. */
INLINE void attend_one(const float *query, const void *keys, const void *values, int64_t n,
                       int64_t key_dim, int64_t value_dim, float cap, const float *sink,
                       float *scores, float *sums, int is_half) {
    for (int64_t j = 0; j < n; j++) {
        float score = 0;
        for (int64_t d = 0; d < key_dim; d++)
            score += query[d] * load(keys, j * key_dim + d, is_half);
        scores[j] = score;
    }
    softmax(scores, n, cap, sink);
    memset(sums, 0, sizeof(float) * value_dim);
    for (int64_t j = 0; j < n; j++)
        for (int64_t d = 0; d < value_dim; d++)
            sums[d] += scores[j] * load(values, j * value_dim + d, is_half);
}

/* Sixteen numbers, which the compiler spreads over the registers that a processor has. */
enum { LANES = 16 };
typedef float wide __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t wide_bits __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2), aligned(2)));

INLINE wide load_wide(const void *numbers, int64_t i, int is_half) {
    if (!is_half) return *(const wide *)((const float *)numbers + i);
    halves bits = *(const halves *)((const uint16_t *)numbers + i);
    return (wide)(__builtin_convertvector(bits, wide_bits) << 16);
}

INLINE float sum_of(wide x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

/* Keys that stay in the nearest cache while all queries of a group read them. */
enum { NEAR = 32, KEYS_AT_ONCE = 4, WIDES_AT_ONCE = 4 };

INLINE void score_keys(const float *query, const void *keys, int64_t first, int64_t n, int64_t dim,
                       float *scores, int is_half) {
    wide sums[KEYS_AT_ONCE] = {{0}};
    for (int64_t d = 0; d < dim; d += LANES) {
        wide q = load_wide(query, d, 0);
        for (int64_t t = 0; t < n; t++)
            sums[t] += q * load_wide(keys, (first + t) * dim + d, is_half);
    }
    for (int64_t t = 0; t < n; t++) scores[t] = sum_of(sums[t]);
}

INLINE void add_values(float *sums, const void *values, int64_t at, const float *weights,
                       int64_t n, int64_t dim, int64_t wides, int is_half) {
    wide sum[WIDES_AT_ONCE];
    for (int64_t w = 0; w < wides; w++) sum[w] = load_wide(sums, w * LANES, 0);
    for (int64_t j = 0; j < n; j++)
        for (int64_t w = 0; w < wides; w++)
            sum[w] += weights[j] * load_wide(values, at + j * dim + w * LANES, is_half);
    for (int64_t w = 0; w < wides; w++) *(wide *)(sums + w * LANES) = sum[w];
}

/* Rows in 32 bits, where more than one query is going to read them. */
INLINE const void *widened(const void *rows, int64_t first, int64_t n, float *room) {
    for (int64_t i = 0; i < n; i += LANES) *(wide *)(room + i) = load_wide(rows, first + i, 1);
    return room;
}

/* The queries of one group, [group, dim], over n keys and values of their head; both widths are
 * multiples of LANES. */
INLINE void attend_group(const float *query, const void *keys, const void *values, int64_t n,
                         int64_t group, int64_t key_dim, int64_t value_dim, float cap,
                         const float *sinks, float *scores, float *sums, float *room,
                         int is_half) {
    int is_widened = is_half && group > 1;
    for (int64_t first = 0; first < n; first += NEAR) {
        int64_t m = n - first < NEAR ? n - first : NEAR, at = is_widened ? 0 : first;
        const void *k = is_widened ? widened(keys, first * key_dim, m * key_dim, room) : keys;
        for (int64_t g = 0; g < group; g++) {
            const float *q = query + g * key_dim;
            float *score = scores + g * n + first;
            int64_t j = 0;
            for (; j + KEYS_AT_ONCE <= m; j += KEYS_AT_ONCE)
                score_keys(q, k, at + j, KEYS_AT_ONCE, key_dim, score + j, is_half && !is_widened);
            for (; j < m; j++)
                score_keys(q, k, at + j, 1, key_dim, score + j, is_half && !is_widened);
        }
    }
    for (int64_t g = 0; g < group; g++) softmax(scores + g * n, n, cap, sinks ? sinks + g : NULL);
    memset(sums, 0, sizeof(float) * group * value_dim);
    for (int64_t first = 0; first < n; first += NEAR) {
        int64_t m = n - first < NEAR ? n - first : NEAR;
        int64_t at = is_widened ? 0 : first * value_dim, d;
        const void *v =
            is_widened ? widened(values, first * value_dim, m * value_dim, room) : values;
        for (int64_t g = 0; g < group; g++) {
            const float *weights = scores + g * n + first;
            float *sum = sums + g * value_dim;
            for (d = 0; d + WIDES_AT_ONCE * LANES <= value_dim; d += WIDES_AT_ONCE * LANES)
                add_values(sum + d, v, at + d, weights, m, value_dim, WIDES_AT_ONCE,
                           is_half && !is_widened);
            for (; d < value_dim; d += LANES)
                add_values(sum + d, v, at + d, weights, m, value_dim, 1, is_half && !is_widened);
        }
    }
}

typedef struct {
    const void *query; /* token, head and number stand so many numbers apart: */
    int64_t query_token, query_head;
    const void *keys, *values; /* pools */
    void *out;                 /* [tokens, heads, value_dim] */
    const int64_t *places;     /* [n, N_COLUMNS] */
    const float *sinks;        /* [heads], or NULL */
    int64_t n, heads, kv_heads, key_dim, value_dim, longest, threads;
    float scale, cap; /* cap: 0 for none */
} attention;

INLINE void attend_task(const attention *a, int64_t task, float *room, int is_half) {
    const int64_t *place = a->places + task / a->kv_heads * N_COLUMNS;
    int64_t head = task % a->kv_heads, group = a->heads / a->kv_heads;
    int64_t first = place[START] * a->kv_heads + head * place[SIZE] + place[LOW];
    int64_t n = place[PLACE] + 1 - place[LOW], bytes = is_half ? 2 : 4;
    float *query = room, *sums = query + group * a->key_dim, *scores = sums + group * a->value_dim;
    float *near = scores + group * a->longest;
    for (int64_t g = 0; g < group; g++) {
        int64_t at = place[ROW] * a->query_token + (head * group + g) * a->query_head;
        for (int64_t d = 0; d < a->key_dim; d++)
            query[g * a->key_dim + d] = a->scale * load(a->query, at + d, is_half);
    }
    const char *keys = (const char *)a->keys + first * a->key_dim * bytes;
    const char *values = (const char *)a->values + first * a->value_dim * bytes;
    const float *sinks = a->sinks ? a->sinks + head * group : NULL;
    /* With the sizes written out, the compiler keeps sums in registers. */
#define GROUP(QUERIES, KEY_DIM, VALUE_DIM)                                                       \
    attend_group(query, keys, values, n, QUERIES, KEY_DIM, VALUE_DIM, a->cap, sinks, scores, sums, \
                 near, is_half)
    int64_t dim = a->key_dim == a->value_dim ? a->key_dim : 0;
    if (dim == 32 && group == 1) GROUP(1, 32, 32);
    else if (dim == 64 && group == 1) GROUP(1, 64, 64);
    else if (dim == 128 && group == 1) GROUP(1, 128, 128);
    else if (dim == 64) GROUP(group, 64, 64);
    else if (dim == 128) GROUP(group, 128, 128);
    else if (a->key_dim % LANES == 0 && a->value_dim % LANES == 0)
        GROUP(group, a->key_dim, a->value_dim);
    else
        for (int64_t g = 0; g < group; g++)
            attend_one(query + g * a->key_dim, keys, values, n, a->key_dim, a->value_dim, a->cap,
                       sinks ? sinks + g : NULL, scores, sums + g * a->value_dim, is_half);
#undef GROUP
    int64_t at = (place[ROW] * a->heads + head * group) * a->value_dim;
    for (int64_t d = 0; d < group * a->value_dim; d++) store(a->out, at + d, sums[d], is_half);
}

FOR_EACH_CPU static void attend_wide(const attention *a, int64_t from, int64_t to, float *room) {
    for (int64_t task = from; task < to; task++) attend_task(a, task, room, 0);
}

FOR_EACH_CPU static void attend_half(const attention *a, int64_t from, int64_t to, float *room) {
    for (int64_t task = from; task < to; task++) attend_task(a, task, room, 1);
}

/* Attention of n tokens, each over its own keys. Returns 0, or -1 where memory is short. */
int fastchat_attend(const attention *a, int is_half) {
    int64_t group = a->heads / a->kv_heads, n_tasks = a->n * a->kv_heads;
    int64_t dim = a->key_dim > a->value_dim ? a->key_dim : a->value_dim;
    int64_t width = group * (a->key_dim + a->value_dim + a->longest) + NEAR * dim;
    width = (width + 15) / 16 * 16; /* threads do not write into one cache line */
    int64_t threads = a->threads < n_tasks ? a->threads : n_tasks;
    if (n_tasks == 0) return 0;
    float *room = malloc(sizeof(float) * width * threads);
    if (!room) return -1;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1) if (threads > 1)
    for (int64_t t = 0; t < threads; t++) {
        int64_t from = n_tasks * t / threads, to = n_tasks * (t + 1) / threads;
        (is_half ? attend_half : attend_wide)(a, from, to, room + t * width);
    }
    free(room);
    return 0;
}

/* Writes new keys or values, [heads, tokens, dim] at any distance, to their tokens' places. */
void fastchat_write(const char *new_rows, int64_t head_bytes, int64_t token_bytes, char *pool,
                    const int64_t *places, int64_t n, int64_t heads, int64_t row_bytes) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t *place = places + i * N_COLUMNS;
        int64_t first = place[START] * heads + place[PLACE];
        for (int64_t h = 0; h < heads; h++)
            memcpy(pool + (first + h * place[SIZE]) * row_bytes,
                   new_rows + h * head_bytes + place[ROW] * token_bytes, row_bytes);
    }
}

typedef struct {
    const void *x; /* [n, in], rows x_row numbers apart */
    void *y;       /* [n, out], rows y_row numbers apart */
    const void *a, *b;                     /* [places, layers, width, in], [places, width, out] */
    const int64_t *owners, *ranks, *sizes; /* by row, by place, by layer */
    int64_t x_row, y_row, n, in, out, width, layers, threads;
} low_rank;

enum { TOGETHER = 4, BLOCK = 32 };

/* y += B (A x) for `rows` rows of one owner; `inner` has room for rows x width sums. */
INLINE void add_rows(const low_rank *l, int64_t first, int64_t rows, float *inner, int is_half) {
    int64_t place = l->owners[first], rank = l->ranks[place], begin = 0;
    for (int64_t s = 0; s < l->layers; begin += l->sizes[s++]) {
        int64_t a = (place * l->layers + s) * l->width * l->in;
        for (int64_t r = 0; r < rank; r++, a += l->in) {
            float sums[TOGETHER] = {0};
            for (int64_t i = 0; i < l->in; i++)
                for (int64_t t = 0; t < rows; t++)
                    sums[t] += load(l->a, a + i, is_half) *
                               load(l->x, (first + t) * l->x_row + i, is_half);
            for (int64_t t = 0; t < rows; t++) inner[t * l->width + r] = sums[t];
        }
        for (int64_t j = 0; j < l->sizes[s]; j += BLOCK) {
            int64_t n = l->sizes[s] - j < BLOCK ? l->sizes[s] - j : BLOCK;
            int64_t y = first * l->y_row + begin + j;
            int64_t b = place * l->width * l->out + begin + j;
            float sums[TOGETHER][BLOCK] = {{0}};
            if (n == BLOCK)
                for (int64_t r = 0; r < rank; r++)
                    for (int64_t t = 0; t < rows; t++)
                        for (int64_t k = 0; k < BLOCK; k++)
                            sums[t][k] += inner[t * l->width + r] *
                                          load(l->b, b + r * l->out + k, is_half);
            else
                for (int64_t r = 0; r < rank; r++)
                    for (int64_t t = 0; t < rows; t++)
                        for (int64_t k = 0; k < n; k++)
                            sums[t][k] += inner[t * l->width + r] *
                                          load(l->b, b + r * l->out + k, is_half);
            for (int64_t t = 0; t < rows; t++)
                for (int64_t k = 0; k < n; k++) {
                    int64_t at = y + t * l->y_row + k;
                    store(l->y, at, load(l->y, at, is_half) + sums[t][k], is_half);
                }
        }
    }
}

INLINE void add_span(const low_rank *l, int64_t from, int64_t to, float *inner, int is_half) {
    for (int64_t row = from; row < to;) {
        int64_t n = 1, owner = l->owners[row];
        while (n < TOGETHER && row + n < to && l->owners[row + n] == owner) n++;
        if (n < TOGETHER) n = 1;
        if (owner >= 0 && n == 1) add_rows(l, row, 1, inner, is_half);
        if (owner >= 0 && n == TOGETHER) add_rows(l, row, TOGETHER, inner, is_half);
        row += n;
    }
}

FOR_EACH_CPU static void add_wide(const low_rank *l, int64_t from, int64_t to, float *inner) {
    add_span(l, from, to, inner, 0);
}

FOR_EACH_CPU static void add_half(const low_rank *l, int64_t from, int64_t to, float *inner) {
    add_span(l, from, to, inner, 1);
}

/* Adds to each row of y what its owner's pair makes of its x; a row of owner -1 stays as it is. */
int fastchat_add_low_rank(const low_rank *l, int is_half) {
    int64_t threads = l->threads < l->n ? l->threads : l->n;
    int64_t width = (TOGETHER * l->width + 15) / 16 * 16;
    if (l->n == 0) return 0;
    float *room = malloc(sizeof(float) * width * threads);
    if (!room) return -1;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1) if (threads > 1)
    for (int64_t t = 0; t < threads; t++)
        (is_half ? add_half : add_wide)(l, l->n * t / threads, l->n * (t + 1) / threads,
                                        room + t * width);
    free(room);
    return 0;
}

/* Numbers that one thread is done with before others would have begun. */
enum { FEW = 1 << 16 };

typedef struct {
    const void *x; /* [rows, width] */
    void *out;
    const float *weight; /* [width] */
    int64_t rows, width, threads;
    float epsilon;
    int32_t rounds_first; /* what is normalised takes the type of x before it is weighted */
} norm;

INLINE void norm_row(const norm *m, int64_t row, int is_half) {
    int64_t at = row * m->width;
    float sum = 0;
    for (int64_t i = 0; i < m->width; i++) {
        float x = load(m->x, at + i, is_half);
        sum += x * x;
    }
    float scale = 1 / sqrtf(sum / (float)m->width + m->epsilon);
    if (m->rounds_first && is_half)
        for (int64_t i = 0; i < m->width; i++) {
            uint16_t rounded;
            store(&rounded, 0, load(m->x, at + i, 1) * scale, 1);
            store(m->out, at + i, load(&rounded, 0, 1) * m->weight[i], 1);
        }
    else
        for (int64_t i = 0; i < m->width; i++)
            store(m->out, at + i, load(m->x, at + i, is_half) * scale * m->weight[i], is_half);
}

FOR_EACH_CPU static void norm_wide(const norm *m, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) norm_row(m, row, 0);
}

FOR_EACH_CPU static void norm_half(const norm *m, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++) norm_row(m, row, 1);
}

/* Divides rows by the root of their mean square, and weights them. */
void fastchat_norm(const norm *m, int is_half) {
    int64_t threads = m->rows * m->width < FEW ? 1 : m->threads;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1) if (threads > 1)
    for (int64_t t = 0; t < threads; t++)
        (is_half ? norm_half : norm_wide)(m, m->rows * t / threads, m->rows * (t + 1) / threads);
}

typedef struct {
    const void *x; /* token and head stand so many numbers apart: */
    int64_t x_token, x_head;
    const void *cosine, *sine; /* [tokens, dim] */
    void *out;                 /* [tokens, heads, dim] */
    int64_t tokens, heads, dim, threads;
} rotation;

INLINE void rotate_row(const rotation *r, int64_t token, int64_t head, int is_half) {
    int64_t half = r->dim / 2, from = token * r->x_token + head * r->x_head;
    int64_t to = (token * r->heads + head) * r->dim, angle = token * r->dim;
    for (int64_t i = 0; i < half; i++) {
        float one = load(r->x, from + i, is_half), two = load(r->x, from + half + i, is_half);
        float cosine = load(r->cosine, angle + i, is_half);
        float sine = load(r->sine, angle + i, is_half);
        store(r->out, to + i, one * cosine - two * sine, is_half);
        cosine = load(r->cosine, angle + half + i, is_half);
        sine = load(r->sine, angle + half + i, is_half);
        store(r->out, to + half + i, two * cosine + one * sine, is_half);
    }
}

FOR_EACH_CPU static void rotate_wide(const rotation *r, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++)
        for (int64_t h = 0; h < r->heads; h++) rotate_row(r, t, h, 0);
}

FOR_EACH_CPU static void rotate_half(const rotation *r, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++)
        for (int64_t h = 0; h < r->heads; h++) rotate_row(r, t, h, 1);
}

/* Turns the two halves of each head against each other, by its token's angles. */
void fastchat_rotate(const rotation *r, int is_half) {
    int64_t threads = r->tokens * r->heads * r->dim < FEW ? 1 : r->threads;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1) if (threads > 1)
    for (int64_t t = 0; t < threads; t++)
        (is_half ? rotate_half : rotate_wide)(r, r->tokens * t / threads,
                                              r->tokens * (t + 1) / threads);
}
