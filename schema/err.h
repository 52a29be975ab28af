/* err.h - how an error travels inside one process, and its name on the wire.
 *
 * A function that can fail because of the world (a peer, a file, SQL, a size) returns 0 or a
 * negative ASSAY_ code and fills the caller's struct err. Polling calls may also return 1 = got
 * one, 0 = none. The caller that handles an error logs it; one that returns it does not. A process
 * that cannot go on calls die() (log.h). A bug is an assert.
 *
 * The names (err_name) are part of the protocol and of the database's error_code column: add, never
 * rename. */
#ifndef ASSAY_ERR_H
#define ASSAY_ERR_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

enum assay_code {
    ASSAY_OK = 0,
    /* codes of requests */
    ASSAY_EBADMSG = -1, /* bad_message: not well-formed msgpack, or not a map with an op */
    ASSAY_EBADREQ =
        -2, /* bad_request: a field is missing, unknown, duplicate, of wrong type or out of range */
    ASSAY_EUNSUPPORTED = -3, /* unsupported: known, but not built in this version */
    ASSAY_EUNKNOWNJOB = -4,  /* unknown_job */
    ASSAY_EKEYREUSED = -5,   /* key_reused: same key and chunk, other contents */
    ASSAY_ETOOLONG = -6,     /* too_long: a row has more tokens than max_len (also a row's code) */
    ASSAY_ETOOLARGE = -7,    /* too_large: a message or a number of rows over a limit */
    ASSAY_EQUEUEFULL = -8,   /* queue_full: try again later */
    ASSAY_ENOTREADY = -9,    /* not_ready: starting or draining */
    ASSAY_EUNAUTHORIZED = -10,
    ASSAY_EINTERNAL = -11, /* internal (also a row's code) */
    ASSAY_ETIMEOUT = -12,  /* timeout: `score` took too long; the job lives on */
    ASSAY_ESTATE =
        -13, /* wrong_state: the job is sealed, cancelled or held, so this cannot be done to it */
    ASSAY_ENOSESSION = -14, /* unknown_session */
    /* codes of rows */
    ASSAY_EBADTOKEN = -20, /* bad_token: a token id outside the vocabulary */
    ASSAY_ENOTOKENS = -21, /* no_tokens */
    ASSAY_ENOSTEP =
        -22, /* no_step_token: STEP pooling and no step token in the row, or none known */
    ASSAY_EADAPTER = -23,   /* unknown_adapter */
    ASSAY_EBADTEXT = -24,   /* bad_text */
    ASSAY_ENONFINITE = -25, /* non_finite: the model gave NaN or infinity */
    ASSAY_EKILLED = -26,    /* worker_killed: the row killed a worker group alone, three times */
    ASSAY_EPOSITION = -27,  /* bad_position: an explicit pooling position outside the row */
    ASSAY_EMANY = -28,      /* many_values: responses and pairs compare one number each */
    ASSAY_EMODEL = -30,     /* unknown_model (also a request's code) */
    ASSAY_EDAMAGED = -29,   /* damaged: the database no longer holds what was written */
    /* local codes, from here down: never on the wire */
    ASSAY_ELOCAL = -40,
    ASSAY_EIO = -40, /* a file, socket or system call failed */
    ASSAY_EFORMAT =
        -41, /* config.json, safetensors, JSONL: the contents are not what they must be */
    ASSAY_ENOMEM = -42,  /* an allocation whose size a client or file chose failed */
    ASSAY_EFULL = -43,   /* the disk is full */
    ASSAY_EBUSY = -44,   /* another broker holds the data directory */
    ASSAY_EGONE = -45,   /* a file was removed while it was in use */
    ASSAY_ELOCKED = -46, /* another process has the database locked */
};

#define ERR_MESSAGE_BYTES 480
#define ERR_FIELD_BYTES 96

/* One error. `field` names the request's field, empty when none. Plain data: copy freely. */
struct err {
    int code;
    uint32_t retry_after_ms; /* 0: no advice */
    char field[ERR_FIELD_BYTES];
    char msg[ERR_MESSAGE_BYTES];
};

/* Fills *e (which may be NULL) and returns `code`, so a caller can write: return err_set(e, CODE,
 * "..."). The message says what was expected and what was found. It is cut at ERR_MESSAGE_BYTES -
 * 1; invalid UTF-8 and control characters become '?'. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same with the name of the request's field, for example "rows[3].ids". */
int err_field(struct err *e, int code, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts `where` ("rows[3]") in front of the error's field, which is inside it. Returns the error's
 * code. e may be NULL: then `code`. */
int err_within(struct err *e, int code, const char *where);

/* Like err_set, with ": <strerror(errno)>" at the end. A full disk (ENOSPC, EDQUOT) becomes
 * ASSAY_EFULL. */
int err_errno(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Returns the name on the wire, such as "bad_message"; "internal" for a code without one. Static
 * storage. */
const char *err_name(int code);
/* The code with this name, len bytes without a NUL; ASSAY_EINTERNAL if none has it. */
int err_code(const char *name, size_t len);

#endif
