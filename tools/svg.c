#include "tools/svg.h"

#include <math.h>

#include "tools/tool.h"

#define WIDTH 760
#define LEFT 110 /* where bars begin: names stand before it */
#define RIGHT 90 /* room for a value behind the longest bar */
#define HEAD 80  /* title and notes */
#define TITLE 34 /* above the bars of a panel */
#define BAR 18   /* a bar, */
#define STEP 25  /* and one with the gap behind it */
#define AXIS 30  /* ticks and their numbers */
#define TICKS_MAX 5.0

void svg_text_write(FILE *file, const char *text)
{
    /* XML takes neither control characters nor what is not UTF-8. */
    for (size_t n; *text != '\0'; text += n) {
        unsigned char c = (unsigned char)*text;
        size_t bytes = tool_character_bytes(text);
        n = bytes > 0 ? bytes : 1;
        if (tool_is_control(text))
            fputc(' ', file);
        else if (c == '<' || c == '>' || c == '&' || c == '"')
            fprintf(file, "&#%u;", c);
        else if (bytes > 0)
            fwrite(text, 1, bytes, file);
        else
            fputs("\xEF\xBF\xBD", file);
    }
}

/* 1, 2 or 5 times a power of ten, so that at most TICKS_MAX steps reach the largest value. */
static double tick_step(double largest)
{
    double power = pow(10, floor(log10(largest / TICKS_MAX)));
    double rest = largest / TICKS_MAX / power;

    return power * (rest <= 1 ? 1 : rest <= 2 ? 2 : rest <= 5 ? 5 : 10);
}

/* Three digits, as a person would write the number. */
static void number_write(FILE *file, double value)
{
    int decimals = value >= 99.95 || value < 0.0005 ? 0
                   : value >= 9.995                 ? 1
                   : value >= 0.995                 ? 2
                                                    : 3;

    fprintf(file, "%.*f", decimals, value);
}

static void note_write(FILE *file, int y, const char *note)
{
    fprintf(file, "<text x=\"16\" y=\"%d\" class=\"small\">", y);
    svg_text_write(file, note);
    fprintf(file, "</text>\n");
}

void svg_head_write(FILE *file, int height, const char *title, const char *const notes[2])
{
    fprintf(
        file,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
        "height=\"%d\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n"
        "<style>\n"
        "text { fill: #1f2328 } .small { font-size: 11px } .end { text-anchor: end } "
        ".mid { text-anchor: middle }\n"
        ".ground { fill: #ffffff } .bar { fill: #8c959f } .first { fill: #0969da } "
        ".line { stroke: #d0d7de } .span { stroke: #1f2328; stroke-width: 1.5 }\n"
        "@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ground { fill: #0d1117 } "
        ".bar { fill: #6e7681 } .first { fill: #2f81f7 } .line { stroke: #30363d } "
        ".span { stroke: #e6edf3 } }\n"
        "</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" class=\"ground\"/>\n",
        WIDTH, height, WIDTH, height);
    fprintf(file, "<text x=\"16\" y=\"28\" font-size=\"16\" font-weight=\"600\">");
    svg_text_write(file, title);
    fprintf(file, "</text>\n");
    note_write(file, 48, notes[0]);
    note_write(file, 64, notes[1]);
}

static void axis_write(FILE *file, int top, int bottom, double step, double scale, double largest)
{
    for (int i = 0; i * step <= largest * 1.0001; i++) {
        double x = LEFT + i * step * scale;
        fprintf(file,
                "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" class=\"line\"/>"
                "<text x=\"%.1f\" y=\"%d\" class=\"small mid\">%.10g</text>\n",
                x, x, top, bottom + 4, x, bottom + 17, i * step);
    }
}

static void bar_write(FILE *file, int y, const char *name, double value, double least, double most,
                      double scale, int is_first)
{
    int middle = y + BAR / 2;
    double end = value;

    fprintf(file, "<text x=\"%d\" y=\"%d\" class=\"end\">", LEFT - 8, middle + 4);
    svg_text_write(file, name);
    fprintf(file, "</text><rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" class=\"%s\"/>",
            LEFT, y, value * scale, BAR, is_first ? "first" : "bar");
    if (most > least) {
        end = fmax(value, most);
        fprintf(file, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" class=\"span\"/>",
                LEFT + least * scale, LEFT + most * scale, middle, middle);
    }
    fprintf(file, "<text x=\"%.1f\" y=\"%d\">", LEFT + end * scale + 6, middle + 4);
    number_write(file, value);
    fprintf(file, "</text>\n");
}

static void panel_write(FILE *file, int top, const char *const *names, int bar_count,
                        const struct svg_panel *panel)
{
    int first = top + TITLE, bottom = first + bar_count * STEP - (STEP - BAR) + 3;
    double largest = 0;

    for (int i = 0; i < bar_count; i++)
        largest = fmax(largest, fmax(panel->values[i], panel->most[i]));
    largest = largest > 0 ? largest : 1;
    double scale = (WIDTH - LEFT - RIGHT) / largest;
    fprintf(file, "<text x=\"16\" y=\"%d\" font-weight=\"600\">", top + 20);
    svg_text_write(file, panel->title);
    fprintf(file, "</text>\n");
    axis_write(file, first - 4, bottom, tick_step(largest), scale, largest);
    for (int i = 0; i < bar_count; i++)
        bar_write(file, first + i * STEP, names[i], panel->values[i], panel->least[i],
                  panel->most[i], scale, i == 0);
}

void svg_write(FILE *file, const char *title, const char *const notes[2], const char *const *names,
               int bar_count, const struct svg_panel *panels, int panel_count)
{
    int panel_height = TITLE + bar_count * STEP + AXIS;

    svg_head_write(file, HEAD + panel_count * panel_height, title, notes);
    for (int i = 0; i < panel_count; i++)
        panel_write(file, HEAD + i * panel_height, names, bar_count, &panels[i]);
    fprintf(file, "</svg>\n");
}
