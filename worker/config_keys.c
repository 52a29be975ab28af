/* config_keys.c - see config_keys.h.
 *
 * The list comes from a record of every attribute that transformers 5.24 reads of a config between
 * from_pretrained and the scores of these architectures, and from what vLLM reads where the two
 * would differ. For each, tests/vectors/config has a score or a refusal by the reference. */
#include "worker/config_keys.h"

#include <stdlib.h>
#include <string.h>

enum neutral {
    NOTHING, /* absent or null */
    EMPTY,   /* or an object, list or string with nothing in it */
    OFF,     /* absent, null or false */
    ON,      /* absent, null or true */
    TRUE,    /* absent or true: some code reads null as false */
    ONE      /* absent, null or 1 */
};

static const struct {
    const char *key;
    enum neutral neutral;
} refused[] = {
    {"is_causal", TRUE},
    /* other models' names for the same settings */
    {"use_bidirectional_attention", OFF},
    {"bidirectional_attention", OFF},
    {"bidirectional", OFF},
    {"is_bidirectional", OFF},
    {"causal_attention", ON},
    {"causal", ON},
    {"is_encoder_decoder", OFF},
    {"add_cross_attention", OFF},
    {"partial_rotary_factor", ONE},
    {"rotary_pct", ONE},
    /* a config inside this one or in another file */
    {"text_config", NOTHING},
    {"text_encoder", NOTHING},
    {"decoder", NOTHING},
    {"generator", NOTHING},
    {"configuration_files", EMPTY},
    {"attribute_map", EMPTY},
    /* layers that are not all alike */
    {"per_layer_config", EMPTY},
    {"kv_sharing_modes", EMPTY},
    {"fusion_config", EMPTY},
    /* weights that are stored in another form */
    {"compression_config", EMPTY},
};

/* The reference's classes have a default for these only if the key is absent. */
static const char *const never_null[] = {"rms_norm_eps", "max_position_embeddings", "hidden_act"};

static int is_neutral(const json_t *v, enum neutral neutral)
{
    if (!v || (json_is_null(v) && neutral != TRUE))
        return 1;
    switch (neutral) {
    case EMPTY:
        return (json_is_object(v) && json_object_size(v) == 0) ||
               (json_is_array(v) && json_array_size(v) == 0) ||
               (json_is_string(v) && json_string_length(v) == 0);
    case OFF:
        return json_is_false(v);
    case ON:
    case TRUE:
        return json_is_true(v);
    case ONE:
        return json_is_number(v) && json_number_value(v) == 1;
    default:
        return 0;
    }
}

/* Refuses a key that is not neutral: "config.json: is_causal: expected true or nothing, found
 * false". */
static int check_key(
    const struct json_file *f, const char *key, enum neutral neutral, struct err *e)
{
    static const char *const expected[] = {"nothing", "nothing in it", "false or nothing",
        "true or nothing", "true or no such key", "1 or nothing"};
    const json_t *v = json_object_get(f->object, key);
    if (is_neutral(v, neutral))
        return 0;
    char *found = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    int rc = err_set(e, ASSAY_EUNSUPPORTED,
        "%s: %s%s: what it asks for is not built; expected %s, found %.80s", f->file, f->where, key,
        expected[neutral], found ? found : "what cannot be shown");
    free(found);
    return rc;
}

/* The reference chooses the class by model_type, so a checkpoint whose model_type and architectures
 * disagree has two readings. The two reward classes are not the library's own; their checkpoints
 * have model types named after them. */
static int check_model_type(const struct model_config *c, const struct json_file *f, struct err *e)
{
    const char *type = NULL, *expected = c->trunk->model_type;
    int rc = json_get_string(f, "model_type", &type, e);
    if (rc <= 0 || strcmp(type, expected) == 0)
        return rc < 0 ? rc : 0;
    if (c->head->foreign && strncmp(type, "qwen2_", 6) == 0 && strstr(type, "rm"))
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s: model_type '%.40s' contradicts architectures, %s: expected '%s'", f->file, type,
        c->architecture->name, expected);
}

static int check_one_architecture(const struct json_file *f, struct err *e)
{
    const json_t *list = json_object_get(f->object, "architectures");
    for (size_t i = 1; i < json_array_size(list); i++)
        if (!json_equal(json_array_get(list, i), json_array_get(list, 0)))
            return err_set(e, ASSAY_EFORMAT,
                "%s: architectures: expected one name, found %zu; keep the one whose head the "
                "checkpoint has",
                f->file, json_array_size(list));
    return 0;
}

/* If both are given, the reference warns and follows id2label. */
static int check_label_counts(
    const struct model_config *c, const struct json_file *f, struct err *e)
{
    const json_t *names = json_object_get(f->object, "id2label"),
                 *n = json_object_get(f->object, "num_labels");
    if (c->head->n_labels > 0 || !json_is_object(names) || !json_is_integer(n) ||
        json_integer_value(n) == (json_int_t)json_object_size(names))
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "%s: num_labels (%lld) contradicts id2label, which names %zu; keep the one that fits "
        "score.weight",
        f->file, (long long)json_integer_value(n), json_object_size(names));
}

/* The reference would read the weights from the file that this key names. */
static int check_weights_file(const struct json_file *f, struct err *e)
{
    const char *name = NULL;
    int rc = json_get_string(f, "transformers_weights", &name, e);
    if (rc <= 0 || strcmp(name, "model.safetensors") == 0)
        return rc < 0 ? rc : 0;
    return err_set(e, ASSAY_EUNSUPPORTED,
        "%s: transformers_weights: expected model.safetensors or nothing, found '%.80s'", f->file,
        name);
}

/* The publisher's own code for an architecture that transformers has: which of the two runs depends
 * on trust_remote_code, and the two may compute otherwise. */
static int check_own_code(const struct model_config *c, const struct json_file *f, struct err *e)
{
    const char *key = c->head->auto_class;
    const json_t *code = key ? json_object_get(json_object_get(f->object, "auto_map"), key) : NULL;
    if (!code || json_is_null(code))
        return 0;
    char *found = json_dumps(code, JSON_ENCODE_ANY | JSON_COMPACT);
    int rc = err_set(e, ASSAY_EUNSUPPORTED,
        "%s: auto_map.%s: expected nothing, found %.120s: the publisher's own %s, which "
        "transformers "
        "takes with trust_remote_code and which may compute otherwise; take the key out for "
        "transformers' own",
        f->file, key, found ? found : "what cannot be shown", c->architecture->name);
    free(found);
    return rc;
}

int config_check_null(const struct json_file *f, const char *key, struct err *e)
{
    if (!json_is_null(json_object_get(f->object, key)))
        return 0;
    return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected a value or no such key, found null",
        f->file, f->where, key);
}

int config_check_keys(const struct model_config *c, const struct json_file *f, struct err *e)
{
    int rc = check_one_architecture(f, e);
    for (size_t i = 0; rc == 0 && i < sizeof refused / sizeof refused[0]; i++)
        rc = check_key(f, refused[i].key, refused[i].neutral, e);
    for (size_t i = 0; rc == 0 && i < sizeof never_null / sizeof never_null[0]; i++)
        rc = config_check_null(f, never_null[i], e);
    if (rc == 0)
        rc = check_model_type(c, f, e);
    if (rc == 0)
        rc = check_label_counts(c, f, e);
    if (rc == 0)
        rc = check_own_code(c, f, e);
    return rc == 0 ? check_weights_file(f, e) : rc;
}

/* ---- rope ---- */

/* Sets *object to the key's value if that is an object with something in it, else to NULL. */
static int find_rope(
    const struct json_file *f, const char *key, const json_t **object, struct err *e)
{
    const json_t *v = json_object_get(f->object, key);
    *object = json_object_size(v) > 0 ? v : NULL;
    if (!v || json_is_null(v) || json_is_object(v))
        return 0;
    return err_set(e, ASSAY_EFORMAT, "%s: %s: expected an object or null", f->file, key);
}

static int check_rope_types(const struct json_file *inner, struct err *e)
{
    const char *type = NULL, *old = NULL;
    int found = json_get_string(inner, "rope_type", &type, e),
        found_old = found < 0 ? found : json_get_string(inner, "type", &old, e);
    if (found_old < 0)
        return found_old;
    if (found && found_old && strcmp(type, old) != 0)
        return err_set(e, ASSAY_EFORMAT,
            "%s: %srope_type '%.40s' contradicts %stype '%.40s'; keep one", inner->file,
            inner->where, type, inner->where, old);
    if (!found && !found_old && json_object_get(inner->object, "factor"))
        return err_set(e, ASSAY_EFORMAT,
            "%s: %srope_type: expected a name beside %sfactor, found nothing", inner->file,
            inner->where, inner->where);
    return 0;
}

static int check_rope_keys(const struct json_file *inner, struct err *e)
{
    /* The first would leave dimensions unrotated; the other two are vLLM's, not the reference's. */
    static const char *const scales[] = {
        "partial_rotary_factor", "attn_factor", "extrapolation_factor"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)inner->object, key, v)
    {
        if (json_is_object(v))
            return err_set(e, ASSAY_EUNSUPPORTED,
                "%s: %s%.40s: rope of its own for each type of layer is not built; expected one "
                "for "
                "all",
                inner->file, inner->where, key);
    }
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        int rc = check_key(inner, scales[i], ONE, e);
        if (rc != 0)
            return rc;
    }
    v = json_object_get(inner->object, "truncate");
    if (json_is_null(v)) /* the reference reads null as false, not as its default */
        return err_set(e, ASSAY_EFORMAT, "%s: %struncate: expected true or false, found null",
            inner->file, inner->where);
    return check_rope_types(inner, e);
}

static const char *rope_type(const json_t *object)
{
    const json_t *type = json_object_get(object, "rope_type");
    return json_string_value(type ? type : json_object_get(object, "type"));
}

static int is_same(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    return a && b && json_equal(a, b);
}

/* Returns whether b has everything that a has, apart from theta and the type's two names. */
static int holds(const json_t *b, const json_t *a)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)a, key, v)
    {
        if (strcmp(key, "rope_theta") != 0 && strcmp(key, "rope_type") != 0 &&
            strcmp(key, "type") != 0 && !is_same(v, json_object_get(b, key)))
            return 0;
    }
    return 1;
}

/* The reference takes rope_scaling if both say something. So if only one of them has a theta, it
 * must equal the rope_theta beside them. */
static int agree(const json_t *root, const json_t *fresh, const json_t *old)
{
    const char *a = rope_type(fresh), *b = rope_type(old);
    const json_t *x = json_object_get(fresh, "rope_theta"), *y = json_object_get(old, "rope_theta");
    if (!x != !y && !is_same(x ? x : y, json_object_get(root, "rope_theta")))
        return 0;
    return (!a || !b ? a == b : strcmp(a, b) == 0) && (!x || !y || is_same(x, y)) &&
           holds(old, fresh) && holds(fresh, old);
}

int config_rope_object(const struct json_file *f, struct json_file *inner, struct err *e)
{
    const json_t *fresh, *old;
    int rc = find_rope(f, "rope_parameters", &fresh, e);
    if (rc == 0)
        rc = find_rope(f, "rope_scaling", &old, e);
    if (rc != 0)
        return rc;
    *inner = (struct json_file){f->file, "rope_scaling.", old};
    if (fresh && old && (rc = check_rope_keys(inner, e)) != 0)
        return rc;
    if (fresh && old && !agree(f->object, fresh, old))
        return err_set(e, ASSAY_EFORMAT,
            "%s: rope_parameters contradicts rope_scaling: expected one of them, or the same in "
            "both; keep the one that the model was trained with",
            f->file);
    if (fresh)
        *inner = (struct json_file){f->file, "rope_parameters.", fresh};
    if (!inner->object)
        return 0;
    rc = check_rope_keys(inner, e);
    return rc == 0 ? 1 : rc;
}
