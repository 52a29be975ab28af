/* log.c - see log.h. A line is formatted whole (log_line.c) and written with one write(2), so lines of processes
 * that share a stderr do not mix.
 *
 * No write waits. O_NONBLOCK belongs to the open file, which other processes have too, so a pipe or
 * a terminal is opened once more; a socket, which cannot be, has MSG_DONTWAIT. Whatever else stderr
 * is (a file, or a pipe that may not be opened) is asked first whether it takes a line. */
#include "schema/log.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "schema/log_line.h"

static const char *log_role = "assay";
static int log_rank = -1;
static int log_json;
static enum log_level log_level = LOG_LEVEL_INFO;
static int log_fd = STDERR_FILENO;
static int log_is_socket;
static atomic_uint log_lost; /* lines since the last one that was written */
static atomic_int log_torn;  /* a line was written in part */

#define LINE_BYTES 2048 /* below PIPE_BUF: a pipe takes a line whole or not at all */
#define LAST_LINE_MS 500

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_init(const char *role, int rank, enum log_level level)
{
    struct stat st;
    log_role = role;
    log_rank = rank;
    log_level = level;
    if (log_fd != STDERR_FILENO)
        close(log_fd);
    log_fd = STDERR_FILENO;
    if (fstat(STDERR_FILENO, &st) != 0)
        return;
    log_is_socket = S_ISSOCK(st.st_mode);
    if (S_ISFIFO(st.st_mode) || isatty(STDERR_FILENO))
        log_fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (log_fd < 0)
        log_fd = STDERR_FILENO;
}

const char *log_level_name(void)
{
    return level_names[log_level];
}

int log_level_from_name(const char *name)
{
    for (int i = 0; i <= LOG_LEVEL_DEBUG; i++)
        if (strcmp(name, level_names[i]) == 0)
            return i;
    return -1;
}

void log_use_json(void)
{
    log_json = 1;
}

int log_is_json(void)
{
    return log_json;
}

static size_t write_text(
    char *line, size_t size, enum log_level level, const char *format, va_list args)
{
    struct timespec ts;
    struct tm tm;
    char time[96];
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    snprintf(time, sizeof time, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900,
        tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ts.tv_nsec / 1000000);
    struct log_head head = {time, level_names[level], log_role, log_rank};
    return log_line_write(line, size, &head, log_json, format, args);
}

__attribute__((format(printf, 4, 5))) static size_t write_words(
    char *line, size_t size, enum log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t len = write_text(line, size, level, format, args);
    va_end(args);
    return len;
}

/* Returns whether stderr takes a line, now or within wait_ms. */
static int is_writable(int wait_ms)
{
    struct pollfd p = {.fd = log_fd, .events = POLLOUT};
    return poll(&p, 1, wait_ms) > 0;
}

/* Returns 0, or -1 where the line was not written, or not all of it. */
static int write_whole(const char *line, size_t len)
{
    ssize_t n = log_is_socket    ? send(log_fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL)
                : is_writable(0) ? write(log_fd, line, len)
                                 : -1;
    if (n > 0 && (size_t)n < len)
        log_torn = 1;
    return n == (ssize_t)len ? 0 : -1;
}

/* Says how many lines were lost, if any were. Returns -1 where this one is, too. */
static int write_lost(void)
{
    char line[LOG_LINE_LEAST + 1] = "\n"; /* first, where a line is torn */
    unsigned n = atomic_exchange(&log_lost, 0);
    if (n == 0)
        return 0;
    size_t torn = log_torn != 0;
    size_t len = torn + write_words(line + torn, LOG_LINE_LEAST, LOG_LEVEL_WARN,
                            "event=log_lines_lost n=%u reason=\"stderr took no more, since nobody "
                            "read it\"",
                            n);
    log_torn = 0;
    if (write_whole(line, len) == 0)
        return 0;
    log_torn |= (int)torn;
    atomic_fetch_add(&log_lost, n);
    return -1;
}

/* Writes a line, or counts it as lost. A closed or full stderr must not stop the service. */
static void write_line(const char *line, size_t len, int wait_ms)
{
    if (wait_ms > 0)
        (void)is_writable(wait_ms);
    if (write_lost() != 0 || write_whole(line, len) != 0)
        atomic_fetch_add(&log_lost, 1);
}

static void put_line(enum log_level level, int wait_ms, const char *fmt, va_list args)
{
    char line[LINE_BYTES];
    if (level > log_level)
        return;
    size_t len = write_text(line, sizeof line, level, fmt, args);
    write_line(line, len, wait_ms);
}

#define LOG_FUNCTION(name, level)                                                                  \
    void name(const char *fmt, ...)                                                                \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, fmt);                                                                       \
        put_line(level, 0, fmt, args);                                                             \
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
    put_line(LOG_LEVEL_ERROR, LAST_LINE_MS, fmt, args);
    va_end(args);
    _exit(exit_code);
}
