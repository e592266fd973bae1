/* Error codes and the error record that parsers, openers and tools fill. */
#ifndef PENSTOCK_CORE_ERROR_H
#define PENSTOCK_CORE_ERROR_H

/*
 * Functions return a value >= 0 on success and < 0 on failure: -errno, or one of these negated.
 * The numbers are pinned: they are printed and compared by users, and never renumbered.
 */
enum ps_err {
    PS_ERR_FORMAT = 4096,      /* the input is not what its format says it must be */
    PS_ERR_TRUNCATED = 4097,   /* the input ends before the bytes it announces */
    PS_ERR_UNSUPPORTED = 4098, /* well formed, but of a kind that is not supported; text names it */
    PS_ERR_CHECKSUM = 4099,    /* data read does not have the recorded checksum */
    PS_ERR_INCOMPLETE = 4100,  /* a layout was stopped before it finished: resume or wipe it */
    PS_ERR_MEMBER = 4101,      /* a member of the volume is missing, repeated or foreign */
    PS_ERR_MEMORY_FLOOR = 4102,  /* the memory ceiling is below what the model needs at least */
    PS_ERR_IN_USE = 4103,        /* a device or file is mounted, held or locked by somebody else */
    PS_ERR_WOULD_DESTROY = 4104, /* writing would destroy what is there and consent was not given */
    PS_ERR_SOURCE_CHANGED = 4105, /* the source is not the one that the layout was begun with */
    PS_ERR_NO_TOKENIZER = 4106,   /* the model was laid out without a tokenizer */
    PS_ERR_SHORT_READ = 4107,     /* a read ended early: the member shrank or its drive is gone */
    PS_ERR_CONTEXT_FULL = 4108,   /* the session holds as many tokens as it was opened for */
    PS_ERR_ARGUMENT = 4109,       /* an argument is out of its range; text says which */
};

/* What went wrong, for a person: filled by callees, owned by the caller, plain data. */
struct ps_error {
    int code;        /* < 0: the value the function returned; 0 while nothing has failed */
    char where[192]; /* file, member, tensor or option the sentence is about; may be empty */
    char text[512];  /* one sentence: what happened and what to do about it; no final newline */
};

/*
 * Fills *err (which may be NULL) with code, where (may be NULL) and the printf-formatted sentence.
 * Returns code, so that callers can write `return ps_error_set(...)`. Thread-safe; does not block.
 */
int ps_error_set(struct ps_error *err, int code, const char *where, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* A constant English phrase for a negative return value (errno or ps_err). Never NULL. */
const char *ps_strerror(int code);

#endif
