/* The guest: process 1 of every sandbox. pool/README.md specifies what it speaks. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>

#define GUEST_VERSION "1.0"
#define PROTOCOL_VERSION 2u

#define HEADER_BYTES 12u
#define PAYLOAD_MAX (16u << 20)
#define READ_MAX (8u << 20)
#define PING_MAX 4096u
#define ARGS_MAX 4096u
#define TREES_MAX 64u
#define PATH_BYTES 4096u
#define GUEST_STORE "/.codecraft"
#define ROOT_STAGE GUEST_STORE "/root" /* an empty directory of the launcher's, to mount on */
#define ROOT_BASE ROOT_STAGE "/base"
#define ROOT_UPPER ROOT_STAGE "/upper"

#define QUEUE_LIMIT ((size_t)256 << 10) /* replies that may wait for the host before output is left in its pipe */
#define CHUNK ((size_t)64 << 10)        /* one read from a pipe or from the channel: a pipe's usual capacity */
#define STDIN_MAX ((size_t)64 << 20)    /* standard input that may wait for all commands together */
#define COMMANDS_MAX 64
#define SHELLS_MAX 16
#define RUNS_MAX (COMMANDS_MAX + SHELLS_MAX) /* a shell has a place of its own, for as long as it lives */
#define ORPHANS_MAX 64

#define AGENT_ID 0xFFFFFFFFu /* "the agent" where a uid or gid stands */
#define NEVER UINT64_MAX

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

#define cleanup_fd __attribute__((cleanup(close_fd)))
#define printf_like(text, args) __attribute__((__format__(__printf__, text, args)))

enum kind {
	KIND_RUN = 0x01,
	KIND_CANCEL = 0x02,
	KIND_WRITE = 0x03,
	KIND_READ = 0x04,
	KIND_RESTORE = 0x05,
	KIND_PING = 0x06,
	KIND_SHELL = 0x07,
	KIND_SHELL_RUN = 0x08,
	KIND_INTERRUPT = 0x09,
	KIND_SHELL_CLOSE = 0x0A,
	KIND_TOOL = 0x0B,
	KIND_IMPORT = 0x0C,
	KIND_HELLO = 0x80,
	KIND_OUTPUT = 0x81,
	KIND_EXIT = 0x82,
	KIND_DONE = 0x83,
	KIND_DATA = 0x84,
	KIND_PONG = 0x85,
	KIND_ERROR = 0x86,
};

enum reason { BY_ITSELF = 0, WALL_LIMIT = 1, OUTPUT_CAP = 2, CANCELLED = 3, RESTORED = 4, CPU_LIMIT = 5 };

/* Why something could not be done; functions that fill it in return 1. */
struct failure {
	int errnum;
	char text[256];
};

/* Bytes between head and tail are waiting; memory is kept while it is small. */
struct queue {
	unsigned char *bytes;
	size_t capacity, head, tail;
	bool swollen; /* has been large since queue_shrank was asked */
};

/* The fields of one payload, in order. A C string ends when the field after it is taken. */
struct reader {
	unsigned char *at;
	size_t left;
	unsigned char *unterminated;
	bool bad; /* a field was missing */
	bool nul; /* a C string had a zero byte inside */
};

struct bytes {
	const unsigned char *at;
	size_t size;
};

/* Commands and the files of WRITE belong to somebody. */
struct owner {
	uid_t uid;
	gid_t gid;
};

struct run_request {
	uint32_t wall_ms;
	uint64_t output_cap;
	uint32_t cpu_ms;     /* 0 = none */
	uint64_t file_bytes; /* 0 = none */
	uint32_t processes;  /* 0 = the sandbox's own limit */
	struct owner owner;
	bool merge;
	const char *cwd;
	char **argv, **envp;
	struct bytes input;
	int status; /* what a persistent shell has as its descriptor 9, -1 = none */
	const struct tool *tool; /* instead of a program: work for a copy of the guest */
};

/* What a persistent shell has beyond a command. Its process and pipes are those of its run. */
struct shell {
	int status; /* read end of the descriptor on which it reports, -1 = closed */
	int stat;   /* its /proc/PID/stat, -1 = none */
	char token[17], line[96];
	size_t line_size, rubbish;
	size_t report_size; /* of the last line that it reads for a command */
	bool scored;     /* has its out-of-memory score */
	bool reported;   /* the exit status below is its command's; output may be owed still */
	bool interrupt;  /* wanted, once it has read its command */
	bool fatal;      /* what must end is the shell, not only its command */
	int code;
	uint64_t spared_until_ns; /* its command was ended: until then it may report that, 0 = no such wait */
	uint64_t user_us, system_us;
	uint32_t closing; /* id of the SHELL_CLOSE that waits for its end, 0 = none */
};

struct run {
	bool used;
	uint32_t id;         /* 0 = a shell without a command */
	struct shell *shell; /* NULL = a command of its own */
	pid_t pid;
	enum reason reason;
	uint64_t started_ns, deadline_ns;
	bool dying; /* stopped, while what is below it is killed */
	uint64_t dying_since_ns;
	int fruitful_looks;   /* looks that found somebody new to kill */
	bool looked;          /* its pipes have been looked at once, and held little */
	bool attached;        /* old enough for its pipes to be watched */
	uint64_t rest_until_ns; /* until then its output may gather in its pipes */
	uint64_t output_left; /* bytes that may still be sent */
	int output[2];        /* read ends of stdout and stderr, -1 = closed */
	int input;            /* write end of stdin, -1 = closed */
	unsigned char *input_bytes;
	size_t input_size, input_done;
	bool exited; /* the fields below are valid; output may be owed still */
	size_t owed[2];
	int status;
	struct rusage usage;
	uint64_t wall_ns;
	uint64_t dropped;      /* bytes of output thrown away */
	uint64_t oom_kills;    /* of the sandbox, when it started */
	uint64_t cpu_limit_us; /* 0 = none */
	uint64_t cpu_used_us, cpu_seen_us, next_cpu_ns;
};

struct restore_counts {
	uint32_t killed, removed, made, kept, compared;
	uint64_t bytes, ns;
};

/* A root of the guest's own making; root.c tells what it is made of. */
/* What there was in a layer when it was new. */
struct layer_mark {
	uint64_t files;         /* 0: nobody knows */
	struct timespec latest; /* change of any of them */
};

struct own_root {
	bool layer; /* over it, thrown away by RESTORE */
	const char *from;             /* the directory that it is, or that is below the layer */
	const char *better;           /* used instead from the first RESTORE on that finds it there */
	const char *copy_to;          /* where to put a copy of the root file system, before all else */
	uint32_t bytes_mib, files;    /* of the layer, at most */
	const char *trees[TREES_MAX]; /* what else is mounted in it: its writable trees */
	uint32_t trees_count;
	struct layer_mark mark;
};

struct options {
	struct owner agent;
	struct own_root root;
	bool self; /* commands keep the guest's own user */
	bool seccomp;
	bool has_max_processes;
	rlim_t max_processes;
	const char *connect; /* where the host listens, NULL = on standard input and output only */
};

struct guest {
	struct options options;
	struct owner own;
	int channel_in, channel_out;
	bool connected; /* the channel is a socket of the host's; nobody may be reading stderr */
	int signals;
	int outside;    /* the root that the launcher gave, where the guest has one of its own */
	int proc;       /* /proc of this PID namespace, -1 = none */
	int oom_events; /* where the kernel counts its out-of-memory kills in this sandbox, -1 = not to be seen */
	int clear_refs; /* resets the guest's own peak memory, which vfork would hand to commands */
	bool has_openat2, private_ipc;
	int watcher; /* tells of files that were open for writing, -1 = none */
	int own_oom_score; /* commands get a higher one: the kernel's out-of-memory killer takes them first */
	struct queue requests, replies;
	bool replies_blocked;
	bool has_run; /* a command, ever: what came before was not an agent's doing */
	bool more_children; /* reaping stopped at its bound */
	struct run runs[RUNS_MAX];
	int runs_end; /* no place from here on is taken: with few commands, every look at all of them is short */
	struct shell shells[SHELLS_MAX];
	struct run *starting; /* may not have executed its command yet, and still read the request for it */
	size_t input_waiting; /* standard input that waits, all commands */
	int orphans[ORPHANS_MAX];
	size_t orphans_count;
	uint64_t orphans_rest_until_ns;
	uint64_t last_wall_ns; /* of the command that ended last */
	uint64_t next_look_ns, look_pause_ns; /* when to look again for what is below dying commands */
	struct failure last_words; /* what was wrong with the stream */
};

/* util.c */
uint64_t now_ns(void);
void close_fd(int *fd);
int steal_fd(int *fd);
int fail(struct failure *why, int errnum, const char *format, ...) printf_like(3, 4);
int complain(const char *format, ...) printf_like(1, 2);
const char *last_complaint(void);

/* queue.c */
size_t queue_size(const struct queue *queue);
unsigned char *queue_room(struct queue *queue, size_t size);
bool queue_shrank(struct queue *queue);
void queue_drop(struct queue *queue, size_t size);

/* reader.c */
uint32_t take_u32(struct reader *reader);
uint64_t take_u64(struct reader *reader);
const char *take_string(struct reader *reader);
struct bytes take_bytes(struct reader *reader);
bool taken_all(const struct reader *reader);

/* reply.c */
unsigned char *reply_begin(struct guest *guest, size_t payload_max);
void reply_end(struct guest *guest, uint32_t id, enum kind kind, size_t payload_size);
void put_u32(unsigned char *at, uint32_t value);
void put_u64(unsigned char *at, uint64_t value);
void reply_hello(struct guest *guest);
void reply_exit(struct guest *guest, const struct run *run);
void reply_done(struct guest *guest, uint32_t id);
void reply_done_write(struct guest *guest, uint32_t id, uint64_t written);
void reply_done_restore(struct guest *guest, uint32_t id, const struct restore_counts *counts);
void reply_pong(struct guest *guest, uint32_t id, const unsigned char *bytes, size_t size);
void reply_error(struct guest *guest, uint32_t id, const struct failure *why);

/* setup.c */
int take_channel(struct guest *guest);
int take_signals(struct guest *guest);
int look_around(struct guest *guest);
int give_up_powers(struct guest *guest);

/* seccomp.c */
int install_filter(bool refuse_message_queues, bool refuse_mounts);
int install_mount_filter(void);

/* mounts.c */
int cannot_mount(struct failure *why, const char *what, const char *path);
int mount_on(const char *source, const char *target, const char *type, unsigned long flags, const char *data,
             struct failure *why);
int make_read_only(const char *target, unsigned long more, struct failure *why);
int each_mount_below(const struct guest *guest, const char *top, int (*act)(const char *path, struct failure *why),
                     struct failure *why);

/* root.c */
int root_enter(struct guest *guest);
int root_renew(struct guest *guest, struct failure *why);
int root_hide_snapshots(const struct guest *guest, struct failure *why);

/* layer.c */
void layer_mark(const struct guest *guest, struct layer_mark *mark);
bool layer_is_new(const struct guest *guest, const struct layer_mark *mark);

/* root_copy.c */
int root_copy(const struct guest *guest);

/* channel.c */
int channel_read(struct guest *guest, bool *ended);
int channel_handle(struct guest *guest);
bool channel_has_frame(const struct guest *guest);
int channel_flush(struct guest *guest);
void channel_say_last_words(struct guest *guest);
void channel_say_why_not(struct guest *guest);

/* request.c */
bool kind_is_request(uint8_t kind);
int handle_request(struct guest *guest, uint32_t id, uint8_t kind, unsigned char *payload, size_t size);
struct owner owner_of(const struct guest *guest, uint32_t uid, uint32_t gid);

/* run.c */
int run_parse(struct guest *guest, uint32_t id, struct reader *reader);
int run_take_table(struct reader *reader, uint32_t least, char **table);
struct run *run_find(struct guest *guest, uint32_t id);
int run_start(struct guest *guest, struct run *run, const struct run_request *request, struct failure *why);
void run_take(struct guest *guest, struct run *run, uint32_t id, struct shell *shell);
void run_discard(struct guest *guest, struct run *run);
bool run_goes_on(const struct run *run);
int run_begin(struct guest *guest, uint32_t id, const struct run_request *request, int failed, struct failure *why);
bool run_settle_start(struct guest *guest);
void run_raise_score(const struct guest *guest, struct run *run);
void run_cancel(struct guest *guest, uint32_t id);
void run_interrupt(struct guest *guest, uint32_t id);
void run_drop_input(struct guest *guest, struct run *run);
void run_feed(struct guest *guest, struct run *run);
void run_close_input(struct guest *guest, struct run *run);

/* shell.c */
int shell_open(struct guest *guest, uint32_t id, const unsigned char *payload, size_t size);
int shell_run(struct guest *guest, uint32_t id, struct reader *reader);
int shell_close(struct guest *guest, uint32_t id, struct reader *reader);
int open_pipe(int ours, int fds[2]);

/* shell_report.c */
void shell_read_status(struct guest *guest, struct run *run);
void shell_interrupt(struct run *run);
void shell_spare(struct guest *guest, struct run *run);
void shell_settled(struct guest *guest, struct run *run);

/* shell_text.c */
struct bytes shell_prelude(void);
size_t shell_text(const struct bytes *text, struct shell *shell, unsigned char **made);

/* usage.c */
void open_oom_events(struct guest *guest);
uint64_t oom_kills(const struct guest *guest);
uint64_t usage_us(const struct rusage *usage);
void shell_take_usage(struct run *run);
void shell_subtract_usage(struct run *run);

/* cpu.c */
void cpu_watch(struct guest *guest, struct run *run, uint32_t limit_ms);
void cpu_look(struct guest *guest, uint64_t now);
void cpu_settle(struct run *run);

/* output.c */
void output_discard(struct guest *guest, struct run *run, int stream);
void output_pump(struct guest *guest, struct run *run, int stream);
void output_settle(struct guest *guest, struct run *run);
void output_retire(struct guest *guest, struct run *run);
void output_abandon(struct guest *guest, struct run *run);
void orphan_drain(struct guest *guest, int fd);
void orphans_close(struct guest *guest);

/* reap.c */
void reap(struct guest *guest);
int kill_everything(struct guest *guest, uint32_t *killed, struct failure *why);

/* spawn.c */
enum { SHELL_STATUS_FD = 9, STREAMS = 4 }; /* stdin, stdout, stderr, a shell's status */
pid_t spawn(struct guest *guest, const struct run_request *request, const int streams[STREAMS]);
bool spawn_is_under_way(void);
int spawn_settle(bool is_reaped, struct failure *why);

/* processes.c: what /proc shows */
#define NOBODY (-1)
struct process {
	pid_t pid, parent;
	char state;
	bool ended; /* a zombie, and not only its first thread */
	int leads;  /* the run that it is the command of, if that one is looked for */
	int below;  /* the run that it is a descendant of */
	uint64_t cpu_us; /* with that of the children it waited for */
};
struct table {
	struct process *processes;
	size_t count, capacity;
};
typedef bool run_filter(const struct run *run);
int list_processes(int proc, struct table *table);
struct process *find_process(const struct table *table, pid_t pid);
size_t place_processes(const struct guest *guest, const struct table *table, run_filter *looked_for);

/* kill.c */
void kill_look(struct guest *guest);
void kill_run(struct guest *guest, struct run *run, enum reason reason);

/* beneath.c */
bool probe_openat2(void);
int open_root(const struct guest *guest, const char *path, int flags, struct failure *why);
int open_beneath(const struct guest *guest, int root, const char *path, int flags, mode_t mode);

/* files.c */
int files_write(struct guest *guest, uint32_t id, struct reader *reader);
int files_read(struct guest *guest, uint32_t id, struct reader *reader);

/* identity.c */
int act_as(const struct guest *guest, struct owner owner);
void act_as_self(const struct guest *guest);
int must_have_powers(void);
int drop_inheritable(void);
int drop_all_capabilities(void);
int drop_to_roots_capabilities(void);
int drop_mounting_capabilities(void);
bool is_roots_capability(unsigned long capability);

/* restore.c */
int restore(struct guest *guest, uint32_t id, struct reader *reader);

/* names.c: a directory's entries, without what opendir allocates */
struct names {
	int fd;
	size_t at, filled;
	_Alignas(8) char block[32 << 10];
};
struct name {
	const char *text;
	unsigned char type;
};
void names_start(struct names *names, int fd);
int names_next(struct names *names, struct name *name);

/* worker.c */
int tool_parse(struct guest *guest, uint32_t id, struct reader *reader);
pid_t worker_start(const struct tool *tool, const int stdio[3]);

/* import.c */
int import_parse(struct guest *guest, uint32_t id, struct reader *reader);

/* watch.c */
int watch_start(struct guest *guest);

/* ipc.c */
bool has_mqueue_mount(void);
int remove_ipc(const struct guest *guest, struct failure *why);
void collect_sent_descriptors(void);

/* loop.c */
int serve(struct guest *guest);

#endif
