/* Bar charts as SVG, readable on light and dark ground, without a library. */
#ifndef PENSTOCK_TOOLS_SVG_H
#define PENSTOCK_TOOLS_SVG_H

#include <stdio.h>

#define SVG_BAR_COUNT_MAX 16

struct svg_panel {
    const char *title; /* with its unit: "decode, tokens/s" */
    double values[SVG_BAR_COUNT_MAX];
    double least[SVG_BAR_COUNT_MAX], most[SVG_BAR_COUNT_MAX]; /* drawn where they differ */
};

/*
 * Draws one panel of horizontal bars below the other, every bar with its name and value, the axis
 * from 0 with round numbers. The first bar of each panel stands out. Texts may hold
 * anything; notes are two lines below the title.
 */
void svg_write(FILE *file, const char *title, const char *const notes[2], const char *const *names,
               int bar_count, const struct svg_panel *panels, int panel_count);

/* Lines over two axes. */
#define SVG_LINE_COUNT_MAX 12
#define SVG_POINT_COUNT_MAX 32

struct svg_line {
    const char *name;
    const void *owner; /* the caller's */
    int point_count;
    double x[SVG_POINT_COUNT_MAX], y[SVG_POINT_COUNT_MAX]; /* in any order: drawn by x, ascending */
};

/* Draws them on axes from 0 to 100, which both are; the first line stands out. Sorts their points.
 * As svg_write. */
void svg_lines_write(FILE *file, const char *title, const char *const notes[2],
                     struct svg_line *lines, int line_count);

/* What both begin with: title, notes and styles, on so many pixels. */
void svg_head_write(FILE *file, int height, const char *title, const char *const notes[2]);
void svg_text_write(FILE *file, const char *text);

#endif
