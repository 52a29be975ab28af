/* assets.h - the page at /: files that are part of the program. They hold nothing of the broker's,
 * so anybody may have them; their data needs a key as everything does. */
#ifndef ASSAY_HTTP_ASSETS_H
#define ASSAY_HTTP_ASSETS_H

/* The file of this path, and its type; the path is one of those in routes.c. */
const char *asset_find(const char *path, const char **type);

/* Headers of the page's files and data: scripts and styles come from here alone, and none stands in
 * the page. Ends with NULL. */
extern const char *const asset_headers[][2];

#endif
