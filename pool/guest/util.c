/* What every file needs: the clock, descriptors that close themselves, errors that say why. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Keeps errno: it runs at the end of scopes that are about to report it. */
void close_fd(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

int steal_fd(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}

int fail(struct failure *why, int errnum, const char *format, ...)
{
	va_list args;

	why->errnum = errnum;
	va_start(args, format);
	vsnprintf(why->text, sizeof why->text, format, args);
	va_end(args);
	return 1;
}

static char complaint[sizeof((struct failure *)0)->text];

/* One line on stderr: the launcher's log, the only place left when there is no channel. */
int complain(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(complaint, sizeof complaint, format, args);
	va_end(args);
	dprintf(2, "guest: %s\n", complaint);
	return 1;
}

const char *last_complaint(void)
{
	return complaint;
}
