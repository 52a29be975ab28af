/* config_check.c - what the four structs may ask for (config.h), and how the model divides by
 * ranks. */
#include "worker/config.h"

#include <string.h>
#include <unistd.h>

int cache_config_check(const struct cache_config *c, struct err *e)
{
    if (c->max_batch_tokens < 1 || c->max_len < 1 || c->max_rows < 1)
        return err_set(e, ASSAY_EBADREQ,
            "cache_config: expected at least 1 token, length and row, found %u, %u, %u",
            c->max_batch_tokens, c->max_len, c->max_rows);
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (c->kv_cache_bytes > memory)
        return err_set(e, ASSAY_EBADREQ,
            "--kv-cache: expected at most this machine's memory, %llu bytes, found %llu",
            (unsigned long long)memory, (unsigned long long)c->kv_cache_bytes);
    return 0;
}

int quant_config_check(const struct quant_config *c, struct err *e)
{
    if (strcmp(c->method, "none") == 0 || quant_config_type(c) != DTYPE_F32)
        return 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "quant_config: expected method none, fp8 or int8, found '%.40s'", c->method);
}

enum dtype quant_config_type(const struct quant_config *c)
{
    return strcmp(c->method, "fp8") == 0    ? DTYPE_F8
           : strcmp(c->method, "int8") == 0 ? DTYPE_I8
                                            : DTYPE_F32;
}

enum dtype model_config_products(const struct model_config *c, const struct quant_config *quant)
{
    return c->quantization.products != DTYPE_F32 ? c->quantization.products
                                                 : quant_config_type(quant);
}

int model_config_check_quant(
    const struct model_config *c, const struct quant_config *quant, uint32_t tp, struct err *e)
{
    uint32_t q = c->n_heads / tp * c->head_dim, mlp = c->intermediate_size / tp,
             kv = model_config_rank_kv_heads(c, tp) * c->head_dim;
    if (model_config_products(c, quant) == DTYPE_F32 ||
        (c->hidden_size % 16 == 0 && q % 16 == 0 && (2 * kv) % 16 == 0 && mlp % 16 == 0))
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s %s: expected sizes that are multiples of 16 on each rank, found hidden_size %u, "
        "query %u, key and value %u, intermediate_size %u",
        c->quantization.products != DTYPE_F32 ? "--activations" : "--quant",
        c->quantization.products != DTYPE_F32 ? "as-stored" : quant->method, c->hidden_size, q,
        2 * kv, mlp);
}

struct layer_range model_config_pp_layers(
    const struct model_config *c, uint32_t pp_rank, uint32_t n_pp_ranks)
{
    uint32_t each = c->n_layers / n_pp_ranks, rest = c->n_layers % n_pp_ranks,
             larger = n_pp_ranks - 1 - rest; /* the first stage that has one more */
    struct layer_range r = {.first = each * pp_rank};
    if (pp_rank > larger)
        r.first += pp_rank - larger < rest ? pp_rank - larger : rest;
    r.end = r.first + each + (pp_rank >= larger && pp_rank + 1 < n_pp_ranks);
    return r;
}

int model_config_check_pp(const struct model_config *c, uint32_t pp, struct err *e)
{
    if (pp >= 1 && pp <= c->n_layers)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "pp %u does not fit: expected at least 1 and at most num_hidden_layers (%u)", pp,
        c->n_layers);
}

uint32_t model_config_rank_kv_heads(const struct model_config *c, uint32_t tp)
{
    return c->n_kv_heads >= tp ? c->n_kv_heads / tp : 1;
}

int model_config_check_tp(const struct model_config *c, uint32_t tp, struct err *e)
{
    int is_mlp = c->head->kind == HEAD_MLP;
    if (tp >= 1 && c->n_heads % tp == 0 && c->intermediate_size % tp == 0 &&
        (c->n_kv_heads % tp == 0 || tp % c->n_kv_heads == 0) &&
        (!is_mlp || c->hidden_size % tp == 0))
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "tp %u does not fit: expected it to divide heads (%u) and intermediate_size (%u)%s, and to "
        "divide or be a "
        "multiple of kv heads (%u)",
        tp, c->n_heads, c->intermediate_size, is_mlp ? " and hidden_size" : "", c->n_kv_heads);
}
