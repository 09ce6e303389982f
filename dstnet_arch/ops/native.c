/* Operations of the network for CPUs, in float32 and channels-last layout: 3x3 convolution, gated sum, pixel filter.
 *
 * Plain C with the vector extensions of GCC and Clang: one source for AVX-512, AVX2 and NEON. Arguments are not checked
 * here; the caller, native.py, checks them: channels are multiples of 16. Results do not depend on the number of
 * threads.
 */
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16, PANEL = 2, ROWS = 12, OUTER = 8 }; /* sums take 24 and 16 of 32 registers */
#elif defined(__aarch64__)
enum { LANES = 4, PANEL = 4, ROWS = 6, OUTER = 4 };
#else
enum { LANES = 8, PANEL = 2, ROWS = 6, OUTER = 4 }; /* sums take 12 and 8 of 16 registers */
#endif
enum { BLOCK = 12 }; /* tiles that are convolved at a time, a multiple of ROWS */
enum { PAD = 16 };   /* floats between the matrices of the points, which would compete for the same sets of the cache */
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));

#define ALWAYS_INLINE static inline __attribute__((always_inline)) /* so that `panel` is a constant */

/* Fewer multiplications than this (about 25 us) run on one thread: waking another takes as long. */
enum { MIN_PARALLEL = 1 << 19, SIGMOID = 32 }; /* a sigmoid counts as that many */

static inline vec choose(mask condition, vec yes, vec no) {
    return (vec)(((mask)yes & condition) | ((mask)no & ~condition));
}

static inline int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static inline int number_of_threads(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

/* --- 3x3 convolution: Winograd's F(4x4, 3x3) (Lavin and Gray, CVPR 2016) ---
 *
 * Each 4x4 tile of the output depends on a 6x6 patch of the input. The patch is transformed to 36 points, each point is
 * multiplied with its own matrix of weights (C_in x C_out), and the products are transformed to the tile. This takes a
 * quarter of the multiplications of the direct form.
 */
enum { TAPS = 3, TILE = 4, SIDE = 6, POINTS = SIDE * SIDE };

/* The six points of the transform are 0, +-A, +-B and infinity. Rounding errors with 5/8 and 3/2 are a quarter of those
 * with the usual 1 and 2, and all constants are exact in float32. */
#define A 0.625f
#define B 1.5f

/* One row of the input transform: six values with stride `in` to six values with stride `out`. */
static inline void transform_input(const vec *d, int in, vec *t, int out) {
    const vec d0 = d[0], d1 = d[in], d2 = d[2 * in], d3 = d[3 * in], d4 = d[4 * in], d5 = d[5 * in];
    const vec even_a = d4 - B * B * d2, odd_a = A * (d3 - B * B * d1);
    const vec even_b = d4 - A * A * d2, odd_b = B * (d3 - A * A * d1);
    t[0] = A * A * B * B * d0 - (A * A + B * B) * d2 + d4;
    t[out] = even_a + odd_a;
    t[2 * out] = even_a - odd_a;
    t[3 * out] = even_b + odd_b;
    t[4 * out] = even_b - odd_b;
    t[5 * out] = A * A * B * B * d1 - (A * A + B * B) * d3 + d5;
}

/* One row of the output transform: six values with stride `in` to four values with stride `out`. */
static inline void transform_output(const vec *m, int in, vec *y, int out) {
    const vec m1 = m[in], m2 = m[2 * in], m3 = m[3 * in], m4 = m[4 * in];
    const vec sum_a = m1 + m2, difference_a = m1 - m2, sum_b = m3 + m4, difference_b = m3 - m4;
    y[0] = m[0] + sum_a + sum_b;
    y[out] = A * difference_a + B * difference_b;
    y[2 * out] = A * A * sum_a + B * B * sum_b;
    y[3 * out] = A * A * A * difference_a + B * B * B * difference_b + m[5 * in];
}

static inline vec leaky(vec y, float slope) { return choose(y > 0.0f, y, slope * y); }

/* A part of the matrix product m = v u: v (ROWS, k), and `panel` vectors of columns of u (k, n) and m (ROWS, n). */
ALWAYS_INLINE void multiply_panel(const float *v, const float *u, float *m, long k, long n, const int panel) {
    vec sum[ROWS][PANEL];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 16
        for (int p = 0; p < panel; p++) sum[r][p] = (vec){0};
    for (long i = 0; i < k; i++) {
        vec column[PANEL];
#pragma GCC unroll 16
        for (int p = 0; p < panel; p++) column[p] = *(const vec *)(u + i * n + p * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 16
            for (int p = 0; p < panel; p++) sum[r][p] += v[r * k + i] * column[p];
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 16
        for (int p = 0; p < panel; p++) *(vec *)(m + r * n + p * LANES) = sum[r][p];
}

/* m = v u, v (rows, k), u (k, n); more rows up to a multiple of ROWS must exist. With AVX-512, 16 columns may remain
 * after the last full panel. */
static inline void multiply(const float *v, const float *u, float *m, long rows, long k, long n) {
    long c = 0;
    for (; c + LANES * PANEL <= n; c += LANES * PANEL)
        for (long r = 0; r < rows; r += ROWS) multiply_panel(v + r * k, u + c, m + r * n + c, k, n, PANEL);
    for (; c < n; c += LANES)
        for (long r = 0; r < rows; r += ROWS) multiply_panel(v + r * k, u + c, m + r * n + c, k, n, 1);
}

/* Transform the weights for input channel k by the matrix g (6, 3): weight (cout, cin, 3, 3) to 36 matrices u
 * (cin, cout), `stride` apart. If `flipped`, weight is (cin, cout, 3, 3) and its taps are read backwards, for the
 * gradient of the convolution's input. */
static inline void transform_weight(const float *weight, const float *g, float *u, long stride, long k, long cin,
                                    long cout, int flipped) {
    enum { SIZE = TAPS * TAPS };
    for (long c = 0; c < cout; c += LANES) {
        float d[SIZE][LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const float *from = weight + SIZE * (flipped ? k * cout + c + lane : (c + lane) * cin + k);
            for (int tap = 0; tap < SIZE; tap++) d[flipped ? SIZE - 1 - tap : tap][lane] = from[tap];
        }
        for (int i = 0; i < SIDE; i++) {
            vec half[TAPS] = {0};
            for (int a = 0; a < TAPS; a++)
                for (int b = 0; b < TAPS; b++) half[b] += g[i * TAPS + a] * *(const vec *)d[a * TAPS + b];
            for (int j = 0; j < SIDE; j++)
                *(vec *)(u + (i * SIDE + j) * stride + k * cout + c) =
                    g[j * TAPS] * half[0] + g[j * TAPS + 1] * half[1] + g[j * TAPS + 2] * half[2];
        }
    }
}

/* Return the first pixel of a patch of `side` x `side` pixels and set *row to the stride of its rows. A patch that
 * crosses the border of the frame is copied to `edge` and padded with zeros. */
static inline const float *find_patch(const float *x, long h, long w, long c, long frame, long top, long left, int side,
                                      float *edge, long *row) {
    const float *patch = x + ((frame * h + top) * w + left) * c;
    *row = w * c;
    if (top >= 0 && left >= 0 && top + side <= h && left + side <= w) return patch;
    memset(edge, 0, sizeof(float) * side * side * c);
    for (long i = top < 0 ? -top : 0; i < side && top + i < h; i++)
        for (long j = left < 0 ? -left : 0; j < side && left + j < w; j++)
            memcpy(edge + (i * side + j) * c, patch + i * *row + j * c, sizeof(float) * c);
    *row = side * c;
    return edge;
}

/* The input transform of one tile: `patch` has 6x6 pixels of c channels; point p is written to v + p * stride. */
static inline void transform_tile(const float *patch, long row, float *v, long stride, long c) {
    for (long k = 0; k < c; k += LANES) {
        vec d[SIDE][SIDE], half[SIDE][SIDE];
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j++) d[i][j] = *(const vec *)(patch + i * row + j * c + k);
        for (int j = 0; j < SIDE; j++) transform_input(&d[0][j], SIDE, &half[0][j], SIDE);
        for (int i = 0; i < SIDE; i++) {
            vec line[SIDE];
            transform_input(half[i], 1, line, 1);
            for (int j = 0; j < SIDE; j++) *(vec *)(v + (i * SIDE + j) * stride + k) = line[j];
        }
    }
}

struct place {
    long frame, top, left; /* first output pixel of a tile */
};

static inline struct place locate(long tile, long down, long across) {
    return (struct place){tile / (down * across), tile / across % down * TILE, tile % across * TILE};
}

/* Begin to read one pixel. */
ALWAYS_INLINE void fetch(const float *x, long h, long w, long c, long frame, long y, long left, const int write) {
    if (y < 0 || y >= h || left < 0 || left >= w) return;
    for (long k = 0; k < c; k += 16) __builtin_prefetch(x + ((frame * h + y) * w + left) * c + k, write, 2);
}

/* out = leaky(conv3x3(x) + bias) + residual, with zero padding.
 *
 * x (n, h, w, cin); weight, g and flipped as in transform_weight; bias (cout), or NULL; residual like out, or NULL; out
 * (n, h, w, cout); slope of the LeakyReLU, 1 for none. Returns 0, or 1 if there is not enough memory.
 *
 * BLOCK tiles at a time pass through all three steps, so intermediate values stay in the caches. Meanwhile the pixels
 * are fetched of the tiles that the same thread probably convolves next.
 */
int conv3x3(const float *x, const float *weight, const float *g, const float *bias, const float *residual, float *out,
            long n, long h, long w, long cin, long cout, int flipped, float slope, int threads) {
    const long down = (h + TILE - 1) / TILE, across = (w + TILE - 1) / TILE, tiles = n * down * across;
    const long blocks = (tiles + BLOCK - 1) / BLOCK;
    const long u_size = cin * cout + PAD, v_size = BLOCK * cin + PAD, m_size = BLOCK * cout + PAD; /* of a point */
    const long size = POINTS * (v_size + m_size + cin);
    float *u = aligned_alloc(64, sizeof(float) * (POINTS * u_size + size * threads));
    if (!u) return 1;
#pragma omp parallel num_threads(threads) if (blocks > 1 && tiles * POINTS * cin * cout >= MIN_PARALLEL)
    {
        float *v = u + POINTS * u_size + thread_number() * size, *m = v + POINTS * v_size, *edge = m + POINTS * m_size;
        const long ahead = BLOCK * number_of_threads();
        memset(v, 0, sizeof(float) * POINTS * v_size);
#pragma omp for schedule(static)
        for (long k = 0; k < cin; k++) transform_weight(weight, g, u, u_size, k, cin, cout, flipped);
#pragma omp for schedule(dynamic, 1) nowait
        for (long block = 0; block < blocks; block++) {
            const long first = block * BLOCK, count = first + BLOCK < tiles ? BLOCK : tiles - first;
            for (long t = 0; t < count; t++) {
                const struct place at = locate(first + t, down, across);
                long row;
                const float *patch = find_patch(x, h, w, cin, at.frame, at.top - 1, at.left - 1, SIDE, edge, &row);
                transform_tile(patch, row, v + t * cin, v_size, cin);
            }
            struct place next[BLOCK];
            long fetched = 0;
            for (; fetched < BLOCK && first + ahead + fetched < tiles; fetched++)
                next[fetched] = locate(first + ahead + fetched, down, across);
            for (int point = 0; point < POINTS; point++) {
                for (long t = 0; t < fetched; t++) {
                    const struct place at = next[t];
                    const int i = point / SIDE, j = point % SIDE;
                    fetch(x, h, w, cin, at.frame, at.top + i - 1, at.left + j - 1, 0);
                    if (i >= TILE || j >= TILE) continue;
                    fetch(out, h, w, cout, at.frame, at.top + i, at.left + j, 1);
                    if (residual) fetch(residual, h, w, cout, at.frame, at.top + i, at.left + j, 0);
                }
                multiply(v + point * v_size, u + point * u_size, m + point * m_size, count, cin, cout);
            }
            for (long t = 0; t < count; t++) {
                const struct place tile = locate(first + t, down, across);
                const long high = h - tile.top < TILE ? h - tile.top : TILE;
                const long wide = w - tile.left < TILE ? w - tile.left : TILE;
                for (long c = 0; c < cout; c += LANES) {
                    vec d[SIDE][SIDE], half[TILE][SIDE];
                    for (int p = 0; p < POINTS; p++)
                        d[p / SIDE][p % SIDE] = *(const vec *)(m + p * m_size + t * cout + c);
                    for (int j = 0; j < SIDE; j++) transform_output(&d[0][j], SIDE, &half[0][j], SIDE);
                    const vec offset = bias ? *(const vec *)(bias + c) : (vec){0};
                    for (long i = 0; i < high; i++) {
                        vec line[TILE];
                        transform_output(half[i], 1, line, 1);
                        const long at = ((tile.frame * h + tile.top + i) * w + tile.left) * cout + c;
                        for (long j = 0; j < wide; j++) {
                            vec y = leaky(line[j] + offset, slope);
                            if (residual) y += *(const vec *)(residual + at + j * cout);
                            *(vec *)(out + at + j * cout) = y;
                        }
                    }
                }
            }
        }
    }
    free(u);
    return 0;
}

/* The transpose of the output transform: four values with stride `in` to six values with stride `out`. */
static inline void transform_output_gradient(const vec *y, int in, vec *m, int out) {
    const vec y0 = y[0], y1 = y[in], y2 = y[2 * in], y3 = y[3 * in];
    const vec even_a = y0 + A * A * y2, odd_a = A * y1 + A * A * A * y3;
    const vec even_b = y0 + B * B * y2, odd_b = B * y1 + B * B * B * y3;
    m[0] = y0;
    m[out] = even_a + odd_a;
    m[2 * out] = even_a - odd_a;
    m[3 * out] = even_b + odd_b;
    m[4 * out] = even_b - odd_b;
    m[5 * out] = y3;
}

/* A part of u += v^T m, OUTER rows and `panel` vectors of columns: v (tiles, cin), m (tiles, cout), u (cin, cout). */
ALWAYS_INLINE void multiply_transposed_panel(const float *v, const float *m, float *u, long tiles, long cin, long cout,
                                             const int panel) {
    vec sum[OUTER][PANEL];
#pragma GCC unroll 16
    for (int r = 0; r < OUTER; r++)
#pragma GCC unroll 16
        for (int p = 0; p < panel; p++) sum[r][p] = *(const vec *)(u + r * cout + p * LANES);
    for (long t = 0; t < tiles; t++) {
        vec line[PANEL];
#pragma GCC unroll 16
        for (int p = 0; p < panel; p++) line[p] = *(const vec *)(m + t * cout + p * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < OUTER; r++)
#pragma GCC unroll 16
            for (int p = 0; p < panel; p++) sum[r][p] += v[t * cin + r] * line[p];
    }
#pragma GCC unroll 16
    for (int r = 0; r < OUTER; r++)
#pragma GCC unroll 16
        for (int p = 0; p < panel; p++) *(vec *)(u + r * cout + p * LANES) = sum[r][p];
}

/* u += v^T m, v (tiles, cin), m (tiles, cout). */
static inline void multiply_transposed(const float *v, const float *m, float *u, long tiles, long cin, long cout) {
    for (long r = 0; r < cin; r += OUTER) {
        long c = 0;
        for (; c + LANES * PANEL <= cout; c += LANES * PANEL)
            multiply_transposed_panel(v + r, m + c, u + r * cout + c, tiles, cin, cout, PANEL);
        for (; c < cout; c += LANES)
            multiply_transposed_panel(v + r, m + c, u + r * cout + c, tiles, cin, cout, 1);
    }
}

/* Gradient of the weights, out (cout, cin, 3, 3).
 *
 * x (n, h, w, cin): input of the convolution; grad (n, h, w, cout): gradient of its output; g (6, 3): the transform of
 * the weights. Returns 0, or 1 if there is not enough memory.
 *
 * TILES tiles at a time are transformed; then one thread adds the product of each point, so the order of the sums does
 * not depend on the number of threads.
 */
int conv3x3_weight_gradient(const float *x, const float *grad, const float *g, float *out, long n, long h, long w,
                            long cin, long cout, int threads) {
    enum { TILES = 64 };
    const long down = (h + TILE - 1) / TILE, across = (w + TILE - 1) / TILE, tiles = n * down * across;
    const long u_size = cin * cout + PAD, v_size = TILES * cin + PAD, m_size = TILES * cout + PAD; /* of a point */
    float *v = aligned_alloc(64, sizeof(float) * POINTS * v_size);
    float *m = aligned_alloc(64, sizeof(float) * POINTS * m_size);
    float *u = aligned_alloc(64, sizeof(float) * POINTS * u_size); /* gradient of the transformed weights */
    float *edges = aligned_alloc(64, sizeof(float) * POINTS * (cin + cout) * threads);
    const int failed = !v || !m || !u || !edges;
    if (!failed) {
        memset(u, 0, sizeof(float) * POINTS * u_size);
#pragma omp parallel num_threads(threads) if (tiles * POINTS * cin * cout >= MIN_PARALLEL)
        {
            float *edge = edges + thread_number() * POINTS * (cin + cout);
            for (long first = 0; first < tiles; first += TILES) {
                const long count = first + TILES < tiles ? TILES : tiles - first;
#pragma omp for schedule(static)
                for (long t = 0; t < count; t++) {
                    const struct place at = locate(first + t, down, across);
                    long row;
                    const float *patch = find_patch(x, h, w, cin, at.frame, at.top - 1, at.left - 1, SIDE, edge, &row);
                    transform_tile(patch, row, v + t * cin, v_size, cin);
                    patch = find_patch(grad, h, w, cout, at.frame, at.top, at.left, TILE, edge + POINTS * cin, &row);
                    for (long k = 0; k < cout; k += LANES) {
                        vec d[TILE][TILE], half[SIDE][TILE];
                        for (int i = 0; i < TILE; i++)
                            for (int j = 0; j < TILE; j++) d[i][j] = *(const vec *)(patch + i * row + j * cout + k);
                        for (int j = 0; j < TILE; j++) transform_output_gradient(&d[0][j], TILE, &half[0][j], TILE);
                        for (int i = 0; i < SIDE; i++) {
                            vec line[SIDE];
                            transform_output_gradient(half[i], 1, line, 1);
                            for (int j = 0; j < SIDE; j++)
                                *(vec *)(m + (i * SIDE + j) * m_size + t * cout + k) = line[j];
                        }
                    }
                }
#pragma omp for schedule(static)
                for (int point = 0; point < POINTS; point++)
                    multiply_transposed(v + point * v_size, m + point * m_size, u + point * u_size, count, cin, cout);
            }
            /* G^T u G. A matrix product of PyTorch's would depend on the number of threads. */
#pragma omp for schedule(static)
            for (long k = 0; k < cin * cout; k += LANES) {
                vec half[TAPS][SIDE];
                for (int a = 0; a < TAPS; a++)
                    for (int j = 0; j < SIDE; j++) {
                        half[a][j] = (vec){0};
                        for (int i = 0; i < SIDE; i++)
                            half[a][j] += g[i * TAPS + a] * *(const vec *)(u + (i * SIDE + j) * u_size + k);
                    }
                float *to = out + (k % cout * cin + k / cout) * TAPS * TAPS;
                for (int a = 0; a < TAPS; a++)
                    for (int b = 0; b < TAPS; b++) {
                        vec sum = (vec){0};
                        for (int j = 0; j < SIDE; j++) sum += g[j * TAPS + b] * half[a][j];
                        for (int lane = 0; lane < LANES; lane++)
                            to[lane * cin * TAPS * TAPS + a * TAPS + b] = sum[lane];
                    }
            }
        }
    }
    free(v);
    free(m);
    free(u);
    free(edges);
    return failed;
}

/* --- Gated sum, Eq. (3) --- */

/* 1 / (1 + exp(-y)), within two units in the last place. */
static inline vec sigmoid(vec y) {
    const vec limit = (vec){0} + 87.0f;
    vec x = choose(-y > limit, limit, -y);
    x = choose(x < -limit, -limit, x);
    /* exp(x) = 2^i exp(rest), |rest| <= log(2) / 2. Adding 1.5 * 2^23 rounds, and leaves i in the lowest bits. */
    const vec shifted = x * 1.44269504f + 12582912.0f, i = shifted - 12582912.0f;
    const vec rest = x - i * 0.693359375f + i * 2.12194440e-4f;
    vec series = rest / 5040.0f + 1.0f / 720.0f;
    series = series * rest + 1.0f / 120.0f;
    series = series * rest + 1.0f / 24.0f;
    series = series * rest + 1.0f / 6.0f;
    series = series * rest + 0.5f;
    const vec power = series * rest * rest + rest + 1.0f;
    return 1.0f / (1.0f + power * (vec)(((mask)shifted << 23) + 0x3f800000));
}

/* out = x1 sigmoid(y1) + x2 sigmoid(y2), arrays of `size` numbers, a multiple of 16. Returns 0. */
int gated_sum(const float *x1, const float *y1, const float *x2, const float *y2, float *out, long size, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (size * SIGMOID >= MIN_PARALLEL)
    for (long k = 0; k < size; k += LANES)
        *(vec *)(out + k) = *(const vec *)(x1 + k) * sigmoid(*(const vec *)(y1 + k)) +
                            *(const vec *)(x2 + k) * sigmoid(*(const vec *)(y2 + k));
    return 0;
}

/* Gradients of x sigmoid(y), one term of the sum. Returns 0. */
int gate_backward(const float *grad, const float *x, const float *y, float *grad_x, float *grad_y, long size,
                  int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (size * SIGMOID >= MIN_PARALLEL)
    for (long k = 0; k < size; k += LANES) {
        const vec gate = sigmoid(*(const vec *)(y + k)), passed = *(const vec *)(grad + k) * gate;
        *(vec *)(grad_x + k) = passed;
        *(vec *)(grad_y + k) = passed * *(const vec *)(x + k) * (1.0f - gate);
    }
    return 0;
}

/* --- Pixel filter, Eq. (4). The filters are interpolated bilinearly (align_corners=False) to the frame's size ---
 *
 * features (n, h, w, c); filters (n, low_h, low_w, 9, c); out like features. With `add`, the result is added to out.
 * Returns 0, or 1 if there is not enough memory.
 */
int pixel_filter(const float *features, const float *filters, float *out, long n, long h, long w, long c, long low_h,
                 long low_w, int add, int threads) {
    const long low_row = low_w * TAPS * TAPS * c;
    float *lines = aligned_alloc(64, sizeof(float) * low_row * threads);
    if (!lines) return 1;
#pragma omp parallel num_threads(threads) if (n * h * w * c * TAPS * TAPS >= MIN_PARALLEL)
    {
        float *line = lines + thread_number() * low_row; /* a row of filters, interpolated vertically */
#pragma omp for schedule(static) nowait
        for (long row = 0; row < n * h; row++) {
            const long frame = row / h, y = row % h;
            float at = (y + 0.5f) * low_h / h - 0.5f;
            at = at > 0.0f ? at : 0.0f;
            const long y0 = (long)at < low_h - 1 ? (long)at : low_h - 1, y1 = y0 + 1 < low_h ? y0 + 1 : y0;
            const float part = at - y0;
            const float *upper = filters + (frame * low_h + y0) * low_row;
            const float *lower = filters + (frame * low_h + y1) * low_row;
            for (long k = 0; k < low_row; k++) line[k] = upper[k] + part * (lower[k] - upper[k]);
            for (long x = 0; x < w; x++) {
                float place = (x + 0.5f) * low_w / w - 0.5f;
                place = place > 0.0f ? place : 0.0f;
                const long x0 = (long)place < low_w - 1 ? (long)place : low_w - 1, x1 = x0 + 1 < low_w ? x0 + 1 : x0;
                const float share = place - x0;
                const float *left = line + x0 * TAPS * TAPS * c, *right = line + x1 * TAPS * TAPS * c;
                const float *centre = features + (row * w + x) * c;
                float *result = out + (row * w + x) * c;
                for (long k = 0; k < c; k += LANES) {
                    vec sum = add ? *(const vec *)(result + k) : (vec){0};
                    for (long i = -1; i <= 1; i++) {
                        if (y + i < 0 || y + i >= h) continue;
                        for (long j = -1; j <= 1; j++) {
                            if (x + j < 0 || x + j >= w) continue;
                            const long tap = (3 * (i + 1) + j + 1) * c + k;
                            const vec a = *(const vec *)(left + tap), b = *(const vec *)(right + tap);
                            sum += (a + share * (b - a)) * *(const vec *)(centre + (i * w + j) * c + k);
                        }
                    }
                    *(vec *)(result + k) = sum;
                }
            }
        }
    }
    free(lines);
    return 0;
}
