/* reals.h - real numbers in JSON as short as they may be without being others. */
#ifndef ASSAY_REALS_H
#define ASSAY_REALS_H

/* JSON text in which real numbers stand with 17 digits, enough for any: each becomes the shortest that reads back as the
 * same double, in place. */
void reals_shorten(char *json);

#endif
