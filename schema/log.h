/* log.h - log lines: one event, one line on stderr, in the same form in every process.
 *
 *     2026-01-31T12:00:00.123Z info assayd - event=listening endpoint=ipc:///...
 *     <UTC time> <level> <role> <rank or -> <key=value pairs, as logfmt has them>
 *
 * or, after log_use_json, with the same pairs:
 *
 *     {"ts":"2026-01-31T12:00:00.123Z","level":"info","role":"assayd","rank":null,"event":"listening",..}
 *
 * A value with blanks, quotes, backslashes or = has quotes around it, and a backslash before its
 * quotes and backslashes. What is a key is said by the format alone; words without a key are the
 * pair `message`. In JSON a value is a number where the format has %d, %i or %u for it.
 *
 * Beside them: the end of a process (die), which is its last line.
 *
 * No line is waited for: one that stderr does not take (a pipe that nobody reads, a terminal
 * stopped by Ctrl-S) is lost, and the next that is written tells how many were. A line has at most
 * 2048 bytes: a value that has no room is cut, and pairs behind it are left out.
 *
 * Level, role, form and where lines go are the only process-wide state, set once in main. Nothing logs
 * per token or per layer. */
#ifndef ASSAY_LOG_H
#define ASSAY_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Set once at the start of main. `role` must outlive the process's logging; rank -1 shows as "-".
 */
void log_init(const char *role, int rank, enum log_level level);

/* From now on lines are JSON. Call it in front of log_init. */
void log_use_json(void);
int log_is_json(void);

/* The name of the level that log_init was given, as the option has it. */
const char *log_level_name(void);
/* Returns the level of "error", "warn", "info" or "debug"; -1 for anything else. */
int log_level_from_name(const char *name);

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Ends a process that cannot go on: one error line, for which a stderr that is full gets half a
 * second, then _exit(exit_code) (a sysexits.h value). */
void die(int exit_code, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));

#endif
