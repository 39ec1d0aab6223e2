/* How a persistent shell says that a command is over, and how it is told to give one up.
 *
 * What arrives on the descriptor of reports may be forged by whatever runs as the shell's user: it decides over the shell's
 * own commands and nothing else. It is read a little at a time, only while a command is under way, and too much of it
 * ends the shell. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest.h"

#define RUBBISH_MAX ((size_t)64 << 10)
#define SPARE_NS (500 * NS_PER_MS) /* for a shell whose command was ended to say so */
#define STATUS_MAX 255

/* "TOKEN STATUS", after whatever else somebody put into the line. */
static bool take_report(struct shell *shell)
{
	char *word, *end;
	long code;

	shell->line[shell->line_size] = '\0';
	word = strstr(shell->line, shell->token);
	if (word == NULL || shell->token[0] == '\0')
		return false;
	word += strlen(shell->token);
	code = strtol(word, &end, 10);
	if (*word != ' ' || end == word + 1 || *end != '\0' || code < 0 || code > STATUS_MAX)
		return false;
	shell->code = (int)code;
	return true;
}

/* Lines that are too long keep their end, where the report is. */
static bool take_byte(struct shell *shell, char byte)
{
	bool taken = false;

	if (byte == '\n') {
		taken = take_report(shell);
		shell->line_size = 0;
		return taken;
	}
	if (shell->line_size == sizeof shell->line - 1) {
		shell->line_size /= 2;
		memmove(shell->line, shell->line + sizeof shell->line - 1 - shell->line_size, shell->line_size);
	}
	shell->line[shell->line_size++] = byte == '\0' ? '?' : byte;
	return false;
}

/* The command is over: what it wrote until now is owed. */
static void end_command(struct run *run)
{
	run->shell->reported = true;
	run->shell->interrupt = false;
	run->shell->token[0] = '\0';
	run->wall_ns = now_ns() - run->started_ns;
	run->owed[0] = run->owed[1] = SIZE_MAX;
	shell_take_usage(run);
	cpu_settle(run);
}

/* The descriptor is readable. */
void shell_read_status(struct guest *guest, struct run *run)
{
	struct shell *shell = run->shell;
	char bytes[512];
	ssize_t size = read(shell->status, bytes, sizeof bytes);

	if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
		close_fd(&shell->status); /* no shell has it any more: another program took its place */
	for (ssize_t i = 0; i < size && !shell->reported; i++)
		if (take_byte(shell, bytes[i]))
			end_command(run);
	if (size <= 0 || shell->reported)
		return;
	shell->rubbish += (size_t)size;
	if (shell->rubbish > RUBBISH_MAX && !shell->fatal) {
		shell->fatal = true;
		kill_run(guest, run, run->reason);
	}
}

/* SIGINT, once the shell has read all of its command: earlier, the rest would be taken for commands of their own. A
 * shell that reads byte by byte leaves the line after the command in the pipe. */
void shell_interrupt(struct run *run)
{
	int unread = 0;

	if (run->input_bytes != NULL || (ioctl(run->input, FIONREAD, &unread) == 0 && (size_t)unread > run->shell->report_size))
		return;
	run->shell->interrupt = false;
	kill(-run->pid, SIGINT);
}

/* Everything below the stopped shell is dead: it may live on if it gives up the rest of its command. It may also have
 * been past that already, and then a signal would end its next command instead. */
void shell_spare(struct guest *guest, struct run *run)
{
	run->dying = false;
	run->shell->spared_until_ns = now_ns() + SPARE_NS;
	if (run->shell->status >= 0 && !run->shell->reported)
		shell_read_status(guest, run);
	if (run->dying)
		return;
	if (!run->shell->reported)
		kill(run->pid, SIGINT);
	kill(run->pid, SIGCONT);
}
