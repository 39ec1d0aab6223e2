/* What a TOOL's worker works with: it is a copy of the guest that reads trees and writes to a pipe. */
#ifndef TOOLS_H
#define TOOLS_H

#include "guest.h"

#define SHA256_BYTES 32u

#define DIGEST_CONTENTS 1u
#define DIGEST_LAYER 2u /* what the layer over the root file system holds, instead of trees */
#define DIGEST_ALONE 4u /* the named paths themselves, without what is below them */
#define DIGEST_FLAGS 7u /* all of these */

enum tool_kind { TOOL_DIGEST = 1, TOOL_EXPORT = 2, TOOL_INSPECT = 3, TOOL_STAT = 4 };

struct tool {
	const struct guest *guest;
	uint32_t kind, flags, count;
	const char *paths[TREES_MAX];
};

struct sha256 {
	uint32_t state[8];
	uint64_t size;
	unsigned char block[64];
};

/* One entry that a walk comes to; a directory is *open*, its parent for others. */
struct visit {
	int dir, open;
	const char *name; /* "" for the top */
	const char *path; /* from the top on, with the top's */
	const struct stat *status;
};

/* A function of each kind returns 1 to end the walk, with the failure filled in. */
struct visitor {
	int (*enter)(struct visitor *visitor, const struct visit *visit);
	int (*leave)(struct visitor *visitor, const struct visit *visit);
	int (*leaf)(struct visitor *visitor, const struct visit *visit);
	const struct tool *tool;
	struct failure *why;
	struct seen *seen; /* files with several names */
};

/* sha256.c */
void sha256_start(struct sha256 *sha);
void sha256_add(struct sha256 *sha, const void *bytes, size_t size);
void sha256_end(struct sha256 *sha, unsigned char digest[SHA256_BYTES]);

/* walk.c */
int walk(const char *top, struct visitor *visitor);
int walk_open(int dir, const char *top, struct visitor *visitor);
int visit_alone(const char *path, struct visitor *visitor);
int open_leaf(const struct visit *visit, struct failure *why);
uint32_t number_of_links(struct visitor *visitor, const struct stat *status, bool *first);
uint32_t tool_owner(const struct guest *guest, uint32_t id, bool group);

/* worker.c */
void say_bytes(const void *bytes, size_t size);
void say_u32(uint32_t value);
void say_u64(uint64_t value);
void say_string(const char *text);
void say_line(const char *format, ...) printf_like(1, 2);

/* digest.c, export.c, inspect.c, stat.c */
int tool_digest(const struct tool *tool, struct failure *why);
int tool_export(const struct tool *tool, struct failure *why);
int tool_inspect(const struct tool *tool, struct failure *why);
int tool_stat(const struct tool *tool, struct failure *why);

#endif
