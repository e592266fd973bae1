#include "tools/svg.h"

#include <stdbool.h>
#include <string.h>

#define LEFT 60
#define TOP 84
#define ACROSS 520 /* of 100 */
#define DOWN 300
#define BELOW 40
#define TICK 20
#define NAME_STEP 20
#define NAME_BESIDE_MAX 16 /* characters; longer names stand below */

/* Lines are told apart by their dashes and names, as well as by shade. */
static const char *const dashes[SVG_LINE_COUNT_MAX] = {
    "",    "6 4", "2 3",  "10 3 2 3",     "1 5",  "12 4",
    "3 9", "9 9", "18 3", "10 3 2 3 2 3", "18 9", "18 3 2 3 2 3"};

static double x_of(double value)
{
    return LEFT + value * ACROSS / 100;
}

static double y_of(double value)
{
    return TOP + DOWN - value * DOWN / 100;
}

static void axes_write(FILE *file)
{
    for (int v = 0; v <= 100; v += TICK) {
        fprintf(file,
                "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" class=\"line\"/>"
                "<text x=\"%.1f\" y=\"%d\" class=\"small mid\">%d</text>\n",
                x_of(v), x_of(v), TOP, TOP + DOWN, x_of(v), TOP + DOWN + 17, v);
        fprintf(file,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"line\"/>"
                "<text x=\"%d\" y=\"%.1f\" class=\"small end\">%d</text>\n",
                LEFT, LEFT + ACROSS, y_of(v), y_of(v), LEFT - 8, y_of(v) + 4, v);
    }
}

/* x and y: where its name stands. */
static void line_write(FILE *file, const struct svg_line *line, int number, int x, int y)
{
    fprintf(file, "<polyline class=\"curve%s\" stroke-dasharray=\"%s\" points=\"",
            number == 0 ? " lead" : "", dashes[number]);
    for (int i = 0; i < line->point_count; i++)
        fprintf(file, "%.1f,%.1f ", x_of(line->x[i]), y_of(line->y[i]));
    fprintf(file,
            "\"/>\n<polyline class=\"curve%s\" stroke-dasharray=\"%s\" points=\"%d,%d %d,%d\"/>"
            "<text x=\"%d\" y=\"%d\">",
            number == 0 ? " lead" : "", dashes[number], x, y, x + 36, y, x + 44, y + 4);
    svg_text_write(file, line->name);
    fprintf(file, "</text>\n");
}

static void points_sort(struct svg_line *line)
{
    for (int i = 1; i < line->point_count; i++) {
        double x = line->x[i], y = line->y[i];
        int at = i;
        for (; at > 0 && line->x[at - 1] > x; at--) {
            line->x[at] = line->x[at - 1];
            line->y[at] = line->y[at - 1];
        }
        line->x[at] = x;
        line->y[at] = y;
    }
}

void svg_lines_write(FILE *file, const char *title, const char *const notes[2],
                     struct svg_line *lines, int line_count)
{
    int x = LEFT + ACROSS + 14, y = TOP + 16, height = TOP + DOWN + BELOW;
    bool is_beside = true;

    for (int i = 0; i < line_count; i++)
        is_beside = is_beside && strlen(lines[i].name) <= NAME_BESIDE_MAX;
    if (!is_beside) {
        x = LEFT;
        y = height;
        height += line_count * NAME_STEP;
    }
    svg_head_write(file, height, title, notes);
    fprintf(file,
            "<style>.curve { fill: none; stroke: #57606a; stroke-width: 1.8 } .lead { stroke: "
            "#0969da; stroke-width: 2.4 } @media (prefers-color-scheme: dark) { .curve { "
            "stroke: #8b949e } .lead { stroke: #2f81f7 } }</style>\n");
    axes_write(file);
    for (int i = 0; i < line_count; i++) {
        points_sort(&lines[i]);
        line_write(file, &lines[i], i, x, y + i * NAME_STEP);
    }
    fprintf(file, "</svg>\n");
}
