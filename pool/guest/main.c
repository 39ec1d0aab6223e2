/* Process 1 of a sandbox: takes the channel, gives up what it does not need, serves until the host is gone. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

#define USAGE "usage: guest [--agent UID:GID | --agent self] [--max-processes N] [--connect PATH] [--seccomp] " \
	      "[--root DIR [--better-root DIR] [--layer MIB:FILES] [--tree DIR]...] [--copy-root DIR] [--version]"
#define EXIT_USAGE 2
#define ARGUMENTS_MAX 128

static struct guest guest; /* zeroed, and too large for a stack */

static int parse_number(const char *text, char end, uint32_t *value, const char **rest)
{
	char *stop;
	unsigned long long number;

	if (*text < '0' || *text > '9')
		return 1;
	errno = 0;
	number = strtoull(text, &stop, 10);
	if (errno != 0 || *stop != end || number >= AGENT_ID)
		return 1;
	*value = (uint32_t)number;
	*rest = stop + (end != '\0');
	return 0;
}

static int parse_agent(const char *text, struct options *options)
{
	const char *rest = text;

	options->self = strcmp(text, "self") == 0;
	if (options->self) {
		options->agent = (struct owner){.uid = getuid(), .gid = getgid()};
		return 0;
	}
	if (parse_number(text, ':', &options->agent.uid, &rest) || parse_number(rest, '\0', &options->agent.gid, &rest))
		return complain("--agent takes UID:GID or self, not \"%s\"", text);
	return 0;
}

static int parse_max_processes(const char *text, struct options *options)
{
	uint32_t number;
	const char *rest;

	if (parse_number(text, '\0', &number, &rest) || number == 0)
		return complain("--max-processes takes a number from 1, not \"%s\"", text);
	options->has_max_processes = true;
	options->max_processes = number;
	return 0;
}

static int parse_layer(const char *text, struct own_root *root)
{
	const char *rest = text;

	if (parse_number(text, ':', &root->bytes_mib, &rest) || parse_number(rest, '\0', &root->files, &rest) ||
	    root->bytes_mib == 0 || root->files == 0)
		return complain("--layer takes MIB:FILES, not \"%s\"", text);
	root->layer = true;
	return 0;
}

/* The options of the guest's own root; 1 if *name* is one, with 2 for a bad value. */
static int parse_root(const char *name, const char *value, struct own_root *root)
{
	const char **place;

	if (strcmp(name, "--layer") == 0)
		return parse_layer(value, root) ? 2 : 1;
	if (strcmp(name, "--tree") == 0 && root->trees_count < TREES_MAX)
		place = &root->trees[root->trees_count++];
	else if (strcmp(name, "--root") == 0)
		place = &root->from;
	else if (strcmp(name, "--better-root") == 0)
		place = &root->better;
	else if (strcmp(name, "--copy-root") == 0)
		place = &root->copy_to;
	else
		return 0;
	if (value[0] != '/' || strlen(value) >= PATH_BYTES / 2)
		return complain("%s takes an absolute path, not \"%s\"", name, value), 2;
	*place = value;
	return 1;
}

static int parse_options(int argc, char **argv, struct options *options)
{
	options->agent = (struct owner){.uid = 1000, .gid = 1000};
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		int about_root = parse_root(argv[i], value, &options->root);

		if (about_root != 0) {
			i++;
			if (about_root == 2)
				return 1;
			continue;
		}
		if (strcmp(argv[i], "--version") == 0) {
			printf("guest %s, protocol %u\n", GUEST_VERSION, PROTOCOL_VERSION);
			exit(fflush(stdout) == 0 ? 0 : 1);
		} else if (strcmp(argv[i], "--seccomp") == 0) {
			options->seccomp = true;
		} else if (strcmp(argv[i], "--connect") == 0) {
			options->connect = value;
			i++;
		} else if (strcmp(argv[i], "--agent") == 0) {
			i++;
			if (parse_agent(value, options))
				return 1;
		} else if (strcmp(argv[i], "--max-processes") == 0) {
			i++;
			if (parse_max_processes(value, options))
				return 1;
		} else {
			return complain("unknown option \"%s\"; " USAGE, argv[i]);
		}
	}
	if ((options->root.layer || options->root.better != NULL) && options->root.from == NULL)
		return complain("--layer and --better-root need a --root");
	return 0;
}

/* Outside a PID namespace of its own, the kill(-1) of this program would end the machine's processes. */
static int must_be_first(void)
{
	if (getpid() != 1)
		return complain("must be process 1 of a PID namespace of its own, is process %d", (int)getpid());
	return 0;
}

/* Copies, for what is told of the arguments below is written over them. */
static char **copy_arguments(int argc, char **argv)
{
	static char *copies[ARGUMENTS_MAX + 1];

	if (argc < 1 || argc > ARGUMENTS_MAX)
		return complain("takes up to %d arguments, not %d", ARGUMENTS_MAX - 1, argc - 1), NULL;
	for (int i = 0; i < argc; i++)
		if ((copies[i] = strdup(argv[i])) == NULL)
			return complain("out of memory for its arguments"), NULL;
	return copies;
}

/* Root's commands list processes, and what they print is compared from sandbox to sandbox: all are to say the same of
 * process 1. A last byte that is no NUL makes the kernel show what stands at the beginning (proc(5), setproctitle). */
static void tell_no_arguments(int argc, char **argv)
{
	static const char name[] = "guest";
	char *end = argv[argc - 1] + strlen(argv[argc - 1]);

	if ((size_t)(end - argv[0]) <= sizeof name)
		return;
	memset(argv[0], 0, (size_t)(end - argv[0]));
	memcpy(argv[0], name, sizeof name);
	*end = '.';
}

int main(int argc, char **argv)
{
	char **arguments = copy_arguments(argc, argv);

	if (arguments == NULL || parse_options(argc, arguments, &guest.options) || must_be_first())
		return EXIT_USAGE;
	if (guest.options.root.layer)
		tell_no_arguments(argc, argv);
	if (take_channel(&guest))
		return 1;
	if (take_signals(&guest) || look_around(&guest) || root_copy(&guest) || root_enter(&guest) ||
	    give_up_powers(&guest) || watch_start(&guest)) {
		channel_say_why_not(&guest);
		return 1;
	}
	reply_hello(&guest);
	if (serve(&guest)) {
		channel_say_last_words(&guest);
		return 1;
	}
	return 0; /* the kernel kills the rest of a namespace whose process 1 ends */
}
