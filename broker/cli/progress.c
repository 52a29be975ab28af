/* progress.c - computes rate and time left, and draws the bar over itself (progress.h). */
#include "broker/cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/screen.h"
#include "broker/cli/signals.h"
#include "schema/clock.h"

#define BAR_CELLS 20

void progress_init(struct progress *p, int on, int64_t total)
{
    *p = (struct progress){.on = on, .total = total, .started_ms = now_mono_ms()};
}

static void put_bar(char *bar, int64_t done, int64_t total)
{
    int full = total > 0 ? (int)(done * BAR_CELLS / total) : 0;
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < full ? '#' : '-';
    bar[BAR_CELLS] = '\0';
}

static void put_left(char *text, size_t size, int64_t rows, double rate)
{
    if (rate <= 0 || rows < 0) {
        snprintf(text, size, "--:--");
        return;
    }
    int64_t s = (int64_t)((double)rows / rate + 0.5);
    if (s >= 3600)
        snprintf(text, size, "%lld:%02lld:%02lld", (long long)s / 3600, (long long)s / 60 % 60,
            (long long)s % 60);
    else
        snprintf(text, size, "%lld:%02lld", (long long)s / 60, (long long)s % 60);
}

/* Cuts the line, because one that wraps could not be overwritten, and writes it whole. */
static void draw(const char *line)
{
    int width, height;
    char text[2048] = "";
    screen_size(STDERR_FILENO, &width, &height);
    FILE *f = fmemopen(text, sizeof text, "w");
    if (!f)
        return;
    fputs("\r", f);
    print_safely_cut(f, line, width - 1);
    fputs("\033[K", f);
    fclose(f);
    cli_tell(text);
}

void progress_note(struct progress *p, const char *text)
{
    snprintf(p->note, sizeof p->note, "%s", text ? text : "");
    if (!p->on || !text)
        return;
    p->drawn_ms = now_mono_ms();
    draw(p->note);
}

void progress_show(struct progress *p, int64_t done, int64_t failed, int force)
{
    int64_t now = now_mono_ms();
    if (!p->started) {
        p->started = 1;
        p->first_done = done;
        p->started_ms = now;
    }
    if (!p->on || p->note[0] || (!force && now - p->drawn_ms < 100))
        return;
    p->drawn_ms = now;
    double seconds = (double)(now - p->started_ms) / 1000;
    double rate = seconds > 0.2 ? (double)(done - p->first_done) / seconds : 0;
    char bar[BAR_CELLS + 1], left[32], bad[40] = "";
    put_bar(bar, done, p->total);
    put_left(left, sizeof left, p->total >= 0 ? p->total - done : -1, rate);
    if (failed > 0)
        snprintf(bad, sizeof bad, ", %lld failed", (long long)failed);
    char line[256];
    if (p->total >= 0)
        snprintf(line, sizeof line, "[%s] %lld/%lld rows%s  %.1f rows/s  %s left", bar,
            (long long)done, (long long)p->total, bad, rate, left);
    else
        snprintf(line, sizeof line, "%lld rows%s  %.1f rows/s", (long long)done, bad, rate);
    draw(line);
}

void progress_end(struct progress *p)
{
    if (p->on && p->drawn_ms)
        cli_tell("\r\033[K");
    p->drawn_ms = 0;
}
