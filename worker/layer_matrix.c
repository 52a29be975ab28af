/* layer_matrix.c - see layer_matrix.h. */
#include "worker/layer_matrix.h"

const char *const layer_matrix_names[N_LAYER_MATRICES] = {"self_attn.q_proj", "self_attn.k_proj",
    "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
