/* The one loop. A set of descriptors this small is cheaper to hand to ppoll than to keep registered: most
 * commands end before their pipes are worth watching. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

/* Until then a command's output waits in its pipes: a short one costs one wake-up and one write. Where many sandboxes
 * share the cores even `true` takes this long; what prints a lot is seen earlier, before its pipe is full. */
#define ATTACH_NS (25 * NS_PER_MS)
#define FIRST_LOOK_NS (3 * NS_PER_MS)
#define FIRST_LOOK_MAX_NS (40 * NS_PER_MS) /* 64 sandboxes on two cores take about that long, all together */
#define MUCH_OUTPUT (8 << 10)
#define INTERRUPT_AGAIN_NS NS_PER_MS
#define EXECUTED_BY_NS (20 * NS_PER_MS) /* or something is wrong with the command on its way there */

enum watched { FIXED = 3, WATCHED_MAX = FIXED + 3 * RUNS_MAX + SHELLS_MAX + ORPHANS_MAX };
enum fixed { CHANNEL_IN, CHANNEL_OUT, SIGNALS };

struct watch {
	struct pollfd fds[WATCHED_MAX];
	struct {
		int run;    /* index, -1 = an orphan */
		int stream; /* 0 stdout, 1 stderr, 2 stdin, 3 a shell's reports */
		int fd;     /* an orphan's */
	} what[WATCHED_MAX];
	size_t count;
	uint64_t wake_ns;
};

static void watch_fd(struct watch *watch, int fd, short events, int run, int stream)
{
	watch->fds[watch->count] = (struct pollfd){.fd = fd, .events = events};
	watch->what[watch->count].run = run;
	watch->what[watch->count].stream = stream;
	watch->what[watch->count].fd = fd;
	watch->count++;
}

static void wake_at(struct watch *watch, uint64_t when)
{
	if (when < watch->wake_ns)
		watch->wake_ns = when;
}

static void watch_output(struct watch *watch, const struct run *run, int index)
{
	for (int stream = 0; stream < 2; stream++)
		if (run->output[stream] >= 0)
			watch_fd(watch, run->output[stream], POLLIN, index, stream);
}

/* Between two commands. */
static void watch_idle_shell(const struct guest *guest, struct watch *watch, int index, uint64_t now)
{
	const struct run *run = &guest->runs[index];

	if (run->id != 0 || run->dying)
		return;
	if (now < guest->orphans_rest_until_ns)
		wake_at(watch, guest->orphans_rest_until_ns);
	else
		watch_output(watch, run, index);
}

static void watch_limits(const struct run *run, struct watch *watch, int index, uint64_t now)
{
	const struct shell *shell = run->shell;

	if (run->reason == BY_ITSELF)
		wake_at(watch, run->deadline_ns);
	if (run->reason == BY_ITSELF && run->cpu_limit_us != 0)
		wake_at(watch, run->next_cpu_ns);
	if (shell != NULL && shell->status >= 0)
		watch_fd(watch, shell->status, POLLIN, index, 3);
	if (shell != NULL && shell->interrupt)
		wake_at(watch, now + INTERRUPT_AGAIN_NS);
	if (shell != NULL && shell->spared_until_ns != 0)
		wake_at(watch, shell->spared_until_ns);
}

static bool prints_much(const struct run *run)
{
	int size;

	for (int stream = 0; stream < 2; stream++)
		if (run->output[stream] >= 0 && ioctl(run->output[stream], FIONREAD, &size) == 0 && size >= MUCH_OUTPUT)
			return true;
	return false;
}

/* Where many sandboxes share the cores each command takes several times as long as alone, and a look at each would
 * wake every guest once more for nothing. What the last one took tells. */
static uint64_t first_look_time(const struct guest *guest, const struct run *run)
{
	uint64_t pause = 2 * guest->last_wall_ns;

	if (pause < FIRST_LOOK_NS)
		pause = FIRST_LOOK_NS;
	return run->started_ns + (pause < FIRST_LOOK_MAX_NS ? pause : FIRST_LOOK_MAX_NS);
}

/* When the pipes of a command are to be watched from; the past if they are by now. */
static uint64_t attach_time(const struct guest *guest, struct run *run, uint64_t now)
{
	if (!run->looked && now < first_look_time(guest, run))
		return first_look_time(guest, run);
	if (!run->looked) {
		run->looked = true;
		run_raise_score(guest, run);
		if (prints_much(run))
			return now;
	}
	return run->started_ns + ATTACH_NS;
}

static void watch_run(struct guest *guest, struct watch *watch, int index, bool room, uint64_t now)
{
	struct run *run = &guest->runs[index];

	if (!run->used || run->exited)
		return;
	if (run->input_bytes != NULL)
		watch_fd(watch, run->input, POLLOUT, index, 2);
	if (!run_goes_on(run)) {
		watch_idle_shell(guest, watch, index, now);
		return;
	}
	if (run->dying)
		return; /* what it printed waits for the end */
	watch_limits(run, watch, index, now);
	if (run == guest->starting) {
		uint64_t look = first_look_time(guest, run);

		wake_at(watch, now < look ? look : run->started_ns + EXECUTED_BY_NS);
		return;
	}
	if (!run->attached) {
		uint64_t when = attach_time(guest, run, now);

		if (now < when) {
			wake_at(watch, when);
			return;
		}
		run->attached = true;
	}
	if (now < run->rest_until_ns) {
		wake_at(watch, run->rest_until_ns);
		return;
	}
	if (room)
		watch_output(watch, run, index);
}

/* What to wait for. Without room for replies neither output nor requests are taken. */
static void watch_all(struct guest *guest, struct watch *watch)
{
	bool room = queue_size(&guest->replies) < QUEUE_LIMIT;
	uint64_t now = now_ns();

	watch->count = 0;
	watch->wake_ns = guest->more_children ? 0 : guest->next_look_ns;
	watch_fd(watch, guest->channel_in, (short)(room ? POLLIN | POLLRDHUP : POLLRDHUP), -1, 0);
	watch_fd(watch, guest->channel_out, (short)(guest->replies_blocked ? POLLOUT : 0), -1, 0);
	watch_fd(watch, guest->signals, POLLIN, -1, 0);
	for (int i = 0; i < guest->runs_end; i++)
		watch_run(guest, watch, i, room, now);
	if (now < guest->orphans_rest_until_ns) {
		wake_at(watch, guest->orphans_rest_until_ns);
		return;
	}
	for (size_t i = 0; i < guest->orphans_count; i++)
		watch_fd(watch, guest->orphans[i], POLLIN, -1, 0);
}

static int wait_for_events(struct watch *watch)
{
	struct timespec timeout = {0, 0}, *limit = watch->wake_ns == NEVER ? NULL : &timeout;
	uint64_t now = limit == NULL ? 0 : now_ns();

	if (limit != NULL && watch->wake_ns > now) {
		timeout.tv_sec = (time_t)((watch->wake_ns - now) / NS_PER_S);
		timeout.tv_nsec = (long)((watch->wake_ns - now) % NS_PER_S);
	}
	if (ppoll(watch->fds, watch->count, limit, NULL) >= 0)
		return 0;
	for (size_t i = 0; i < watch->count; i++)
		watch->fds[i].revents = 0;
	return errno == EINTR ? 0 : 1;
}

static void serve_output(struct guest *guest, struct run *run, int stream)
{
	if (run->id == 0)
		output_discard(guest, run, stream);
	else if (run_goes_on(run) && !run->dying && queue_size(&guest->replies) < QUEUE_LIMIT)
		output_pump(guest, run, stream);
}

static void serve_run(struct guest *guest, const struct watch *watch, size_t i)
{
	struct run *run = &guest->runs[watch->what[i].run];
	int stream = watch->what[i].stream;

	/* Reaping, which came first, may have ended this run and closed its pipes. */
	if (!run->used || run->exited)
		return;
	if (stream == 2 && run->input_bytes != NULL && run->input == watch->fds[i].fd)
		run_feed(guest, run);
	else if (stream < 2 && run->output[stream] == watch->fds[i].fd)
		serve_output(guest, run, stream);
	else if (stream == 3 && run_goes_on(run) && !run->dying && run->shell->status == watch->fds[i].fd)
		shell_read_status(guest, run);
}

static void serve_pipes(struct guest *guest, const struct watch *watch)
{
	for (size_t i = FIXED; i < watch->count; i++) {
		if (watch->fds[i].revents == 0)
			continue;
		if (watch->what[i].run >= 0)
			serve_run(guest, watch, i);
		else
			orphan_drain(guest, watch->fds[i].fd);
	}
}

static void serve_children(struct guest *guest)
{
	struct signalfd_siginfo info;

	if (read(guest->signals, &info, sizeof info) > 0 || guest->more_children)
		reap(guest);
}

static void enforce_on_shell(struct guest *guest, struct run *run, uint64_t now)
{
	struct shell *shell = run->shell;

	if (shell->interrupt && run->reason == BY_ITSELF)
		shell_interrupt(run);
	if (shell->spared_until_ns != 0 && !run->dying && now >= shell->spared_until_ns) {
		shell->fatal = true; /* it went on regardless */
		kill_run(guest, run, run->reason);
	}
}

static void enforce_limits(struct guest *guest)
{
	uint64_t now = now_ns();

	if (guest->starting != NULL && now >= guest->starting->started_ns + EXECUTED_BY_NS)
		run_settle_start(guest);
	for (int i = 0; i < guest->runs_end; i++) {
		struct run *run = &guest->runs[i];

		if (!run_goes_on(run))
			continue;
		if (run->reason == BY_ITSELF && now >= run->deadline_ns)
			kill_run(guest, run, WALL_LIMIT);
		if (run->shell != NULL)
			enforce_on_shell(guest, run, now);
	}
	cpu_look(guest, now);
	if (now_ns() >= guest->next_look_ns)
		kill_look(guest);
}

static bool is_settling(const struct run *run)
{
	return run->used && (run->exited || (run->shell != NULL && run->shell->reported));
}

/* Returns whether an EXIT still waits for room. */
static bool settle_runs(struct guest *guest)
{
	bool waits = false;

	for (int i = 0; i < guest->runs_end; i++) {
		struct run *run = &guest->runs[i];

		if (is_settling(run))
			output_settle(guest, run);
		waits |= is_settling(run);
	}
	return waits;
}

/* Takes requests and sends replies until neither goes any further. */
static int serve_channel(struct guest *guest, bool *ended)
{
	bool waits;

	if (guest->starting != NULL && !spawn_is_under_way())
		run_settle_start(guest);
	do {
		if (channel_handle(guest))
			return 1;
		waits = settle_runs(guest);
		if (channel_flush(guest))
			*ended = true;
	} while (!*ended && !guest->replies_blocked && (waits || channel_has_frame(guest)));
	return 0;
}

/* Requests that came before the end of the stream count, unless the host left their replies lying. */
static int take_requests(struct guest *guest, const struct pollfd *channel, bool *ended)
{
	if (channel->events & POLLIN)
		return channel->revents != 0 ? channel_read(guest, ended) : 0;
	if (channel->revents != 0)
		*ended = true;
	return 0;
}

/* Returns 0 when the host is gone, 1 when it must be told that it broke the protocol. */
int serve(struct guest *guest)
{
	static struct watch watch;
	bool ended = false;

	guest->next_look_ns = NEVER;
	while (!ended) {
		if (serve_channel(guest, &ended))
			return 1;
		if (ended)
			break;
		watch_all(guest, &watch);
		if (wait_for_events(&watch))
			return fail(&guest->last_words, errno, "cannot wait for events");
		if (watch.fds[SIGNALS].revents != 0 || guest->more_children)
			serve_children(guest);
		serve_pipes(guest, &watch);
		enforce_limits(guest);
		if (watch.fds[CHANNEL_OUT].revents & (POLLERR | POLLNVAL))
			ended = true;
		else if (take_requests(guest, &watch.fds[CHANNEL_IN], &ended))
			return 1;
	}
	return 0;
}
