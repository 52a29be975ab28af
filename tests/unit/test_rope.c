/* test_rope.c - frequencies bit for bit as the reference has them. It computes
 * 1 / theta^(2i/d) in float32 and rounds at each step; a last bit is worth a visible part of a
 * score some hundred positions on. The literals are PyTorch's, of
 * 1.0 / theta ** (torch.arange(0, d, 2).float() / d). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/rope.h"

struct expected {
    double theta;
    uint32_t head_dim;
    float inv_freq[7]; /* the first of them */
};

static const struct expected table[] = {
    {1e4, 14,
        {0x1p+0f, 0x1.12b542p-2f, 0x1.26c88p-4f, 0x1.3c5354p-6f, 0x1.537124p-8f, 0x1.6c3f72p-10f,
            0x1.86ddd2p-12f}},
    {1e4, 80,
        {0x1p+0f, 0x1.96b23p-1f, 0x1.430cd6p-1f, 0x1.009b9cp-1f, 0x1.97a968p-2f, 0x1.43d136p-2f,
            0x1.013798p-2f}},
    {1e4, 96,
        {0x1p+0f, 0x1.a69b6p-1f, 0x1.5cd25p-1f, 0x1.1feb34p-1f, 0x1.db4c78p-2f, 0x1.885044p-2f,
            0x1.43d136p-2f}},
    {5e5, 128,
        {0x1p+0f, 0x1.a11582p-1f, 0x1.53c38cp-1f, 0x1.14c708p-1f, 0x1.c2ef78p-2f, 0x1.6f56fap-2f,
            0x1.2b3dc6p-2f}},
};

static void frequencies_are_the_references(void **unused)
{
    (void)unused;
    for (size_t t = 0; t < sizeof table / sizeof table[0]; t++) {
        struct rope_config r = {.type = ROPE_DEFAULT, .theta = table[t].theta};
        float inv_freq[64];
        rope_inv_freq(&r, table[t].head_dim, inv_freq);
        for (int i = 0; i < 7; i++)
            if (inv_freq[i] != table[t].inv_freq[i])
                fail_msg("head_dim %u, frequency %d: expected %a, found %a", table[t].head_dim, i,
                    (double)table[t].inv_freq[i], (double)inv_freq[i]);
    }
}

/* The literals are those of transformers' modeling_rope_utils, which rounds each step to
 * float32. */
static void scaled_frequencies_are_the_references(void **unused)
{
    static const struct {
        struct rope_config rope;
        uint32_t head_dim;
        float inv_freq[8];
    } cases[] = {
        {{.type = ROPE_LLAMA3,
             .theta = 500,
             .factor = 1.5,
             .low_freq_factor = 2,
             .high_freq_factor = 4,
             .original_max_position = 16},
            10, {0x1.83f758p-1f, 0x1.89f408p-3f, 0x1.c6af6p-5f, 0x1.0663bep-6f, 0x1.2ed6eep-8f}},
        {{.type = ROPE_YARN,
             .theta = 1e4,
             .factor = 3.3,
             .beta_fast = 32,
             .beta_slow = 1,
             .truncate = 1,
             .original_max_position = 512},
            16,
            {0x1p+0f, 0x1.0b65p-2f, 0x1.0adc5p-4f, 0x1.ee8ea8p-7f, 0x1.8d3018p-9f, 0x1.f6684cp-11f,
                0x1.3dc014p-12f, 0x1.91ed08p-14f}}};
    (void)unused;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        float inv_freq[64];
        rope_inv_freq(&cases[c].rope, cases[c].head_dim, inv_freq);
        for (uint32_t i = 0; i < cases[c].head_dim / 2; i++)
            if (inv_freq[i] != cases[c].inv_freq[i])
                fail_msg("case %zu, frequency %u: expected %a, found %a", c, i,
                    (double)cases[c].inv_freq[i], (double)inv_freq[i]);
    }
}

/* At position 600 the first two frequencies have angles of 600 and 160.96, the second of which
 * float32 holds to 2e-5 only. */
static void angles_are_rounded_before_their_cosine(void **unused)
{
    (void)unused;
    struct rope_config r = {.type = ROPE_DEFAULT, .theta = 1e4, .factor = 1, .attention_factor = 1};
    static float cos_table[601 * 7], sin_table[601 * 7];
    rope_fill(&r, 14, 601, cos_table, sin_table);
    assert_true(cos_table[0] == 1.0f && sin_table[0] == 0.0f);
    const float *c = cos_table + 600 * 7, *s = sin_table + 600 * 7;
    assert_true(c[0] == -0x1.ff8002p-1f && s[0] == 0x1.69f15p-5f);
    assert_true(c[1] == -0x1.79ea8p-1f && s[1] == -0x1.596eacp-1f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_are_the_references),
        cmocka_unit_test(scaled_frequencies_are_the_references),
        cmocka_unit_test(angles_are_rounded_before_their_cosine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
