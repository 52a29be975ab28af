/* beginning.c - finds where the members of a broken JSON object stop, and closes it there
 * (beginning.h). */
#include "broker/cli/input/beginning.h"

#include <string.h>

#include "schema/json.h"

#define LONGEST_ID (RENAMES_BYTES + 1) /* an id's key is looked for within so many bytes */

/* Returns where the last complete member before `fault` ends: at a comma of the object, or at its
 * closing brace. 0: none. */
static size_t end_of_members(const char *text, size_t fault)
{
    size_t end = 0;
    int depth = 0;
    for (const char *at = text, *stop = text + fault; at && at < stop;) {
        if (depth == 1 && *at == ',')
            end = (size_t)(at - text);
        if (depth == 1 && *at == '}')
            return (size_t)(at - text);
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        at = *at == '"' ? json_string_end(at, stop) : at + 1;
    }
    return end;
}

static int has_id(const char *text, size_t len, const struct renames *names)
{
    const char *end = text + len;
    for (const char *at = text; (at = memchr(at, '"', (size_t)(end - at))) != NULL;) {
        size_t left = (size_t)(end - ++at);
        const char *quote = memchr(at, '"', left < LONGEST_ID ? left : LONGEST_ID);
        if (quote && renames_is_id(names, at, (size_t)(quote - at)))
            return 1;
    }
    return 0;
}

void beginning_of(
    const char *text, size_t len, size_t fault, const struct renames *names, struct buffer *out)
{
    size_t first = 0;
    fault = fault < len ? fault : len;
    fault = fault < BEGINNING_BYTES ? fault : BEGINNING_BYTES;
    while (first < fault && strchr(" \t\r", text[first]) && text[first])
        first++;
    if (first == fault || text[first] != '{')
        return;
    size_t end = end_of_members(text, fault);
    if (end == 0 || has_id(text + end, len - end, names))
        return;
    buffer_append(out, text, end);
    buffer_text(out, "}");
}
