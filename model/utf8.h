/* UTF-8: decoding, repair and NFC, as the tokenizers of the models' makers see text. */
#ifndef PENSTOCK_MODEL_UTF8_H
#define PENSTOCK_MODEL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/strbuf.h"

#define PS_UTF8_REPLACEMENT 0xFFFDu

/*
 * Reads one character from text[0 .. bytes), bytes >= 1. Returns how many bytes it takes (>= 1). An
 * ill-formed sequence gives *code = U+FFFD, *valid = false and the length of its maximal subpart
 * (Unicode 15 §3.9, "U+FFFD substitution of maximal subparts"), which is what Python's
 * errors="replace" and Rust's from_utf8_lossy replace by one U+FFFD.
 */
size_t ps_utf8_next(const char *text, size_t bytes, uint32_t *code, bool *valid);

/* Writes code (a scalar value) to out; returns the number of bytes, 1 to 4. */
size_t ps_utf8_put(uint32_t code, char out[4]);

bool ps_utf8_valid(const char *text, size_t bytes);

/* Appends text to *out with every ill-formed sequence replaced by U+FFFD. */
void ps_utf8_repair(struct ps_strbuf *out, const char *text, size_t bytes);

/* Appends the NFC form of text, which must be valid UTF-8, to *out. Linear in bytes. */
void ps_utf8_nfc(struct ps_strbuf *out, const char *text, size_t bytes);

/* True when text (valid UTF-8) holds only characters below U+0300, which NFC never changes. */
bool ps_utf8_nfc_trivial(const char *text, size_t bytes);

#endif
