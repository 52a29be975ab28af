/* clock.h - the time, in milliseconds or (_us) microseconds: CLOCK_MONOTONIC for deadlines and
 * durations, CLOCK_REALTIME for show. */
#ifndef ASSAY_CLOCK_H
#define ASSAY_CLOCK_H

#define FOREVER (1ll << 60) /* a deadline, in either unit, that never comes */

long long now_mono_ms(void);
long long now_mono_us(void);
long long now_wall_ms(void);

#endif
