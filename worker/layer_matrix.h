/* layer_matrix.h - the matrices of a layer, in the order in which they are used, and what they are
 * called. */
#ifndef ASSAY_LAYER_MATRIX_H
#define ASSAY_LAYER_MATRIX_H

enum layer_matrix {
    MATRIX_Q,
    MATRIX_K,
    MATRIX_V,
    MATRIX_O,
    MATRIX_GATE,
    MATRIX_UP,
    MATRIX_DOWN,
    N_LAYER_MATRICES
};

/* "self_attn.q_proj" .. "mlp.down_proj": behind "model.layers.0." in the reference's model. */
extern const char *const layer_matrix_names[N_LAYER_MATRICES];

#endif
