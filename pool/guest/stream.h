/* The stream of EXPORT and IMPORT: a tree as records, each a u8 type, three zero bytes, a u32 length and that much. */
#ifndef STREAM_H
#define STREAM_H

#include <stdint.h>

#define STREAM_MAGIC "CCTR" /* the first record's payload, with the version as u32 */
#define STREAM_VERSION 1u
#define RECORD_HEAD 8u
#define RECORD_MAX ((128u << 10) + 64u) /* of a payload: the longest name and value of an attribute, and more */
#define DATA_MAX (64u << 10)
#define LOOKS_BYTES 24u /* u32 mode, uid, gid; u64 seconds (two's complement), u32 nanoseconds */

enum record_type {
	STREAM_BEGINS = 1,
	DIRECTORY = 2,       /* name */
	DIRECTORY_ENDS = 3,  /* looks; the last one is the tree's own */
	REGULAR = 4,         /* u64 size, u32 number among the files with several names (0 = one), name */
	DATA = 5,            /* u64 offset, bytes: of the last file; what has none is a hole */
	REGULAR_ENDS = 6,    /* looks */
	ATTRIBUTE = 7,       /* u32 length, name, value: of the open file, else of the directory */
	SYMLINK = 8,         /* looks, u32 length, name, goal */
	PIPE = 9,            /* looks, name */
	OTHER_NAME = 10,     /* u32 number, name */
	STREAM_ENDS = 11,
};

#endif
