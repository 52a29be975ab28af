/* assets.c - see assets.h. The files are in page/. */
#include "broker/http/assets.h"

#include <stddef.h>
#include <string.h>

static const char html[] =
#include "page_html.h"
    ;
static const char css[] =
#include "page_css.h"
    ;
static const char js[] =
#include "page_js.h"
    ;

static const struct {
    const char *path, *type, *text;
} assets[] = {
    {"/", "text/html; charset=utf-8", html},
    {"/page.css", "text/css; charset=utf-8", css},
    {"/page.js", "text/javascript; charset=utf-8", js},
};

const char *const asset_headers[][2] = {
    {"Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
        "data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"},
    {"Referrer-Policy", "no-referrer"},
    {"Cache-Control", "no-store"},
    {NULL, NULL},
};

const char *asset_find(const char *path, const char **type)
{
    size_t k = 0;
    while (k + 1 < sizeof assets / sizeof assets[0] && strcmp(assets[k].path, path) != 0)
        k++;
    *type = assets[k].type;
    return assets[k].text;
}
