/* log.c - see log.h. A line is formatted whole and written with one write(2), so lines of processes
 * that share a stderr do not mix. */
#include "schema/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "schema/utf8.h"

static const char *log_role = "assay";
static int log_rank = -1;
static enum log_level log_level = LOG_LEVEL_INFO;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_init(const char *role, int rank, enum log_level level)
{
    log_role = role;
    log_rank = rank;
    log_level = level;
}

int log_level_from_name(const char *name)
{
    for (int i = 0; i <= LOG_LEVEL_DEBUG; i++)
        if (strcmp(name, level_names[i]) == 0)
            return i;
    return -1;
}

static int put_head(char *line, size_t size, enum log_level level)
{
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    char rank[16] = "-";
    if (log_rank >= 0)
        snprintf(rank, sizeof rank, "%d", log_rank);
    return snprintf(line, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s %s %s ", tm.tm_year + 1900,
        tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ts.tv_nsec / 1000000,
        level_names[level], log_role, rank);
}

static void put_line(enum log_level level, const char *fmt, va_list args)
{
    char line[2048];
    if (level > log_level)
        return;
    size_t head = (size_t)put_head(line, sizeof line - 1, level);
    int n = vsnprintf(line + head, sizeof line - 1 - head, fmt, args);
    size_t len = head + (n > 0 ? (size_t)n : 0);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len] = '\0';
    utf8_make_printable(line + head); /* names and messages may come from outside */
    len = strlen(line);
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written; /* a closed stderr must not stop the service */
}

#define LOG_FUNCTION(name, level)                                                                  \
    void name(const char *fmt, ...)                                                                \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, fmt);                                                                       \
        put_line(level, fmt, args);                                                                \
        va_end(args);                                                                              \
    }
LOG_FUNCTION(log_error, LOG_LEVEL_ERROR)
LOG_FUNCTION(log_warn, LOG_LEVEL_WARN)
LOG_FUNCTION(log_info, LOG_LEVEL_INFO)
LOG_FUNCTION(log_debug, LOG_LEVEL_DEBUG)

void die(int exit_code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    put_line(LOG_LEVEL_ERROR, fmt, args);
    va_end(args);
    _exit(exit_code);
}
