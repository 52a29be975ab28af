/* notify.h - tells systemd, or who else started this process, how it is: sd_notify's protocol, a
 * datagram of lines to the socket that NOTIFY_SOCKET names. The library for it would bring four
 * others into every broker, so these few lines are our own. */
#ifndef ASSAY_NOTIFY_H
#define ASSAY_NOTIFY_H

struct notify {
    int fd;              /* 0: nobody wants to know */
    long long period_ms; /* a sign of life at least so often; 0: none is wanted */
    long long due_ms;    /* the next one */
};

/* Connects to the socket. path, watchdog_us and pid: the values of NOTIFY_SOCKET, WATCHDOG_USEC and
 * WATCHDOG_PID; NULL where they are not set. What cannot be used is as if it were not set. */
void notify_open(struct notify *n, const char *path, const char *watchdog_us, const char *pid);
/* Sends lines such as "READY=1". It never waits, and a failure is nobody's concern. */
void notify_send(const struct notify *n, const char *lines);
/* Sends a sign of life when it is due. Returns when the next is (now_ms: monotonic). */
long long notify_alive(struct notify *n, long long now_ms);
void notify_close(struct notify *n);

#endif
