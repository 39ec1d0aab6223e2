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
#define PROTOCOL_VERSION 1u

#define HEADER_BYTES 12u
#define PAYLOAD_MAX (16u << 20)
#define READ_MAX (8u << 20)
#define PING_MAX 4096u
#define ARGS_MAX 4096u
#define TREES_MAX 64u

#define QUEUE_LIMIT ((size_t)256 << 10) /* replies that may wait for the host before output is left in its pipe */
#define CHUNK ((size_t)64 << 10)        /* one read from a pipe or from the channel: a pipe's usual capacity */
#define STDIN_MAX ((size_t)64 << 20)    /* standard input that may wait for all commands together */
#define RUNS_MAX 64
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
	KIND_HELLO = 0x80,
	KIND_OUTPUT = 0x81,
	KIND_EXIT = 0x82,
	KIND_DONE = 0x83,
	KIND_DATA = 0x84,
	KIND_PONG = 0x85,
	KIND_ERROR = 0x86,
};

enum reason { BY_ITSELF = 0, WALL_LIMIT = 1, OUTPUT_CAP = 2, CANCELLED = 3, RESTORED = 4 };

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
	struct owner owner;
	bool merge;
	const char *cwd;
	char **argv, **envp;
	struct bytes input;
};

struct run {
	bool used;
	uint32_t id;
	pid_t pid;
	enum reason reason;
	uint64_t started_ns, deadline_ns;
	bool dying; /* stopped, while what is below it is killed */
	uint64_t dying_since_ns;
	int fruitful_looks;   /* looks that found somebody new to kill */
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
};

struct restore_counts {
	uint32_t killed, removed, made;
	uint64_t bytes, ns;
};

struct options {
	struct owner agent;
	bool self; /* commands keep the guest's own user */
	bool seccomp;
	bool has_max_processes;
	rlim_t max_processes;
};

struct guest {
	struct options options;
	struct owner own;
	int channel_in, channel_out;
	int signals;
	int proc;       /* /proc of this PID namespace, -1 = none */
	int clear_refs; /* resets the guest's own peak memory, which vfork would hand to commands */
	bool has_openat2, private_ipc;
	int own_oom_score; /* commands get a higher one: the kernel's out-of-memory killer takes them first */
	struct queue requests, replies;
	bool replies_blocked;
	bool more_children; /* reaping stopped at its bound */
	struct run runs[RUNS_MAX];
	size_t input_waiting; /* standard input that waits, all commands */
	int orphans[ORPHANS_MAX];
	size_t orphans_count;
	uint64_t orphans_rest_until_ns;
	uint64_t next_look_ns, look_pause_ns; /* when to look again for what is below dying commands */
	struct failure last_words; /* what was wrong with the stream */
};

/* util.c */
uint64_t now_ns(void);
void close_fd(int *fd);
int steal_fd(int *fd);
int fail(struct failure *why, int errnum, const char *format, ...) printf_like(3, 4);
int complain(const char *format, ...) printf_like(1, 2);

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
int install_filter(bool refuse_message_queues);

/* channel.c */
int channel_read(struct guest *guest, bool *ended);
int channel_handle(struct guest *guest);
bool channel_has_frame(const struct guest *guest);
int channel_flush(struct guest *guest);
void channel_say_last_words(struct guest *guest);

/* request.c */
bool kind_is_request(uint8_t kind);
int handle_request(struct guest *guest, uint32_t id, uint8_t kind, unsigned char *payload, size_t size);
struct owner owner_of(const struct guest *guest, uint32_t uid, uint32_t gid);

/* run.c */
int run_parse(struct guest *guest, uint32_t id, struct reader *reader);
void run_attach(const struct guest *guest, struct run *run);
void run_cancel(struct guest *guest, uint32_t id);
void run_feed(struct guest *guest, struct run *run);
void run_close_input(struct guest *guest, struct run *run);

/* output.c */
void output_pump(struct guest *guest, struct run *run, int stream);
void output_settle(struct guest *guest, struct run *run);
void output_abandon(struct guest *guest, struct run *run);
void orphan_drain(struct guest *guest, int fd);
void orphans_close(struct guest *guest);

/* reap.c */
void reap(struct guest *guest);
int kill_everything(struct guest *guest, uint32_t *killed, struct failure *why);

/* spawn.c */
pid_t spawn(struct guest *guest, const struct run_request *request, const int stdio[3], int *cwd_error);

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

/* empty.c */
int empty_tree(int root, struct restore_counts *counts, struct failure *why);

/* copy.c */
int copy_tree(int from, int to, struct owner owner, struct restore_counts *counts, struct failure *why);

/* ipc.c */
bool has_mqueue_mount(void);
int remove_ipc(const struct guest *guest, struct failure *why);

/* loop.c */
int serve(struct guest *guest);

#endif
