/* The names in a directory, a block at a time. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

/* The kernel's struct linux_dirent64 */
struct entry {
	uint64_t inode;
	int64_t next;
	unsigned short size;
	unsigned char type;
	char name[];
};

/* The descriptor stays the caller's, and is read from where it stands. */
void names_start(struct names *names, int fd)
{
	names->fd = fd;
	names->at = names->filled = 0;
}

/* 1 and the next name, which is valid until the next call; 0 at the end; -1 with errno. Leaves out . and .. */
int names_next(struct names *names, struct name *name)
{
	const struct entry *entry;

	do {
		if (names->at == names->filled) {
			long size = syscall(SYS_getdents64, names->fd, names->block, sizeof names->block);

			if (size <= 0)
				return size < 0 ? -1 : 0;
			names->at = 0;
			names->filled = (size_t)size;
		}
		entry = (const void *)(names->block + names->at);
		names->at += entry->size;
	} while (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0);
	*name = (struct name){.text = entry->name, .type = entry->type};
	return 1;
}
