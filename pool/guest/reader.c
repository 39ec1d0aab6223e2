/* Payload to fields. Every length is checked against what is there before a byte of it is touched. */
#include <string.h>

#include "guest.h"

/* The next *size* bytes; NULL, and *bad* for good, if there are fewer. */
static unsigned char *take(struct reader *reader, size_t size)
{
	unsigned char *at = reader->at;

	if (reader->bad || size > reader->left) {
		reader->bad = true;
		return NULL;
	}
	reader->at += size;
	reader->left -= size;
	return at;
}

uint32_t take_u32(struct reader *reader)
{
	const unsigned char *at = take(reader, 4);
	uint32_t value;

	if (at == NULL)
		return 0;
	value = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
	/* The string before this field ends where the field began, whose bytes are no longer needed: no copy. */
	if (reader->unterminated != NULL)
		*reader->unterminated = '\0';
	reader->unterminated = NULL;
	return value;
}

uint64_t take_u64(struct reader *reader)
{
	uint64_t low = take_u32(reader);

	return low | (uint64_t)take_u32(reader) << 32;
}

struct bytes take_bytes(struct reader *reader)
{
	uint32_t size = take_u32(reader);
	unsigned char *at = take(reader, size);

	return (struct bytes){.at = at, .size = at == NULL ? 0 : size};
}

/* A string for the kernel. The format has a field after each, at which it gets its final zero byte. */
const char *take_string(struct reader *reader)
{
	uint32_t size = take_u32(reader);
	unsigned char *at = take(reader, size);

	if (at == NULL)
		return "";
	if (memchr(at, '\0', size) != NULL)
		reader->nul = true;
	reader->unterminated = at + size;
	return (const char *)at;
}

bool taken_all(const struct reader *reader)
{
	return !reader->bad && reader->left == 0;
}
