/* A filter for launchers that have none of their own: what no command needs and exploits begin with. */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

/* The kernel's own layouts and numbers; not every libc has headers for them. */
struct instruction {
	uint16_t code;
	uint8_t if_true, if_false;
	uint32_t operand;
};
struct program {
	unsigned short size;
	struct instruction *instructions;
};
struct call {
	int number;
	uint32_t arch;
	uint64_t instruction_pointer, arguments[6];
};

#define LOAD 0x20u            /* BPF_LD | BPF_W | BPF_ABS */
#define JUMP_IF_EQUAL 0x15u   /* BPF_JMP | BPF_JEQ | BPF_K */
#define JUMP_IF_ATLEAST 0x35u /* BPF_JMP | BPF_JGE | BPF_K */
#define JUMP_IF_ANY 0x45u     /* BPF_JMP | BPF_JSET | BPF_K */
#define RETURN 0x06u          /* BPF_RET | BPF_K */
#define ALLOW 0x7fff0000u
#define KILL 0x80000000u
#define REFUSE(errnum) (0x00050000u | (errnum))
#define DONE 0u                       /* as an error: the call returns 0, and nothing was done */
#define MODE_FILTER 1u                /* SECCOMP_SET_MODE_FILTER */
#define WITHOUT_SPECULATION_COST 4u   /* SECCOMP_FILTER_FLAG_SPEC_ALLOW */

#if defined(__x86_64__)
#define ARCH 0xC000003Eu
#define FOREIGN_NUMBERS 0x40000000u /* x32 */
#elif defined(__aarch64__)
#define ARCH 0xC00000B7u
#define FOREIGN_NUMBERS 0x80000000u
#else
#error "the filter knows x86_64 and aarch64"
#endif

#define NEW_USER_NAMESPACE 0x10000000u
#define PARENTS_CHILD 0x8000u /* CLONE_PARENT */
#define PUT_INTO_TERMINAL 0x5412u /* TIOCSTI */
#define TERMINAL_CONSOLE 0x541Cu  /* TIOCLINUX */
#define CHILD_SUBREAPER 36u       /* PR_SET_CHILD_SUBREAPER */
#define GUEST_PID 1u
#define PRIORITY_OF_USER 2u    /* PRIO_USER */
#define IO_PRIORITY_OF_USER 3u /* IOPRIO_WHO_USER */

#define PROGRAM_MAX 256

struct writer {
	struct instruction code[PROGRAM_MAX];
	unsigned short size;
};

#ifndef SYS_clone3
#define SYS_clone3 435
#endif

static const int refused[] = {
    SYS_keyctl, SYS_add_key, SYS_request_key, SYS_pivot_root, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd,
    SYS_setns, SYS_quotactl, SYS_open_by_handle_at, SYS_kexec_load, SYS_init_module, SYS_finit_module, SYS_delete_module,
    SYS_syslog /* the machine's log, which some machines let everybody read */,
    /* By number, the same everywhere, for headers older than they are */
    425 /* io_uring_setup */, 426 /* io_uring_enter */, 427 /* io_uring_register */, 428 /* open_tree */,
    429 /* move_mount */, 430 /* fsopen */, 431 /* fsconfig */, 432 /* fsmount */, 433 /* fspick */,
    442 /* mount_setattr */, 467 /* open_tree_attr */,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
};

/* Unix, IPv4, IPv6 and netlink sockets are of the sandbox's own network. Others are not, such as those to the host of a
 * virtual machine (vsock), or are kernel code that no command needs. */
static const uint32_t own_families[] = {1, 2, 10, 16};

/* Calls by which a process of the guest's own user could starve or limit it, by the place of their pid. */
static const struct {
	int number;
	unsigned int place;
} on_processes[] = {
    {SYS_prlimit64, 0},     {SYS_sched_setscheduler, 0}, {SYS_sched_setparam, 0},
    {SYS_sched_setattr, 0}, {SYS_sched_setaffinity, 0},  {SYS_setpriority, 1},
    {SYS_ioprio_set, 1},
};

static void emit(struct writer *writer, uint16_t code, uint32_t operand, uint8_t if_true, uint8_t if_false)
{
	writer->code[writer->size++] =
	    (struct instruction){.code = code, .if_true = if_true, .if_false = if_false, .operand = operand};
}

static void emit_load(struct writer *writer, size_t offset)
{
	emit(writer, LOAD, (uint32_t)offset, 0, 0);
}

/* The low half of an argument, on machines of this byte order: all that is looked at are 32-bit values. */
static size_t argument(unsigned int place)
{
	return offsetof(struct call, arguments) + place * sizeof(uint64_t);
}

static void refuse(struct writer *writer, int number, uint32_t errnum)
{
	emit(writer, JUMP_IF_EQUAL, (uint32_t)number, 0, 1);
	emit(writer, RETURN, REFUSE(errnum), 0, 0);
}

/* Refuses *number* if its argument equals (or shares a bit with) *value*. */
static void refuse_if(struct writer *writer, int number, unsigned int place, uint16_t test, uint32_t value)
{
	emit(writer, JUMP_IF_EQUAL, (uint32_t)number, 0, 4);
	emit_load(writer, argument(place));
	emit(writer, test, value, 0, 1);
	emit(writer, RETURN, REFUSE(EPERM), 0, 0);
	emit_load(writer, offsetof(struct call, number));
}

static void refuse_foreign_families(struct writer *writer, int number)
{
	const size_t count = sizeof own_families / sizeof own_families[0];

	emit(writer, JUMP_IF_EQUAL, (uint32_t)number, 0, (uint8_t)(count + 3));
	emit_load(writer, argument(0));
	for (size_t i = 0; i < count; i++)
		emit(writer, JUMP_IF_EQUAL, own_families[i], (uint8_t)(count - i), 0);
	emit(writer, RETURN, REFUSE(EAFNOSUPPORT), 0, 0);
	emit_load(writer, offsetof(struct call, number));
}

/* Descendants stay below their command only while it is a subreaper: it cannot stop being one. */
static void refuse_leaving_subreaper(struct writer *writer)
{
	emit(writer, JUMP_IF_EQUAL, (uint32_t)SYS_prctl, 0, 6);
	emit_load(writer, argument(0));
	emit(writer, JUMP_IF_EQUAL, CHILD_SUBREAPER, 0, 3);
	emit_load(writer, argument(1));
	emit(writer, JUMP_IF_EQUAL, 0, 0, 1);
	emit(writer, RETURN, REFUSE(EPERM), 0, 0);
	emit_load(writer, offsetof(struct call, number));
}

static void write_filter(struct writer *writer, bool refuse_message_queues, bool refuse_mounts)
{
	emit_load(writer, offsetof(struct call, arch));
	emit(writer, JUMP_IF_EQUAL, ARCH, 1, 0);
	emit(writer, RETURN, KILL, 0, 0);
	emit_load(writer, offsetof(struct call, number));
	emit(writer, JUMP_IF_ATLEAST, FOREIGN_NUMBERS, 0, 1);
	emit(writer, RETURN, REFUSE(ENOSYS), 0, 0);
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
		refuse(writer, refused[i], EPERM);
	refuse(writer, SYS_clone3, ENOSYS); /* its flags are out of a filter's sight; libc falls back to clone */
	/* A guest that makes roots needs them, and the kernel refuses them to commands, which lack CAP_SYS_ADMIN and can
	 * have no user namespace. */
	if (refuse_mounts) {
		refuse(writer, SYS_mount, EPERM);
		refuse(writer, SYS_umount2, EPERM);
	}
	if (refuse_message_queues)
		refuse(writer, SYS_mq_open, ENOSYS); /* they could not be found again to be removed */
	refuse_if(writer, SYS_unshare, 0, JUMP_IF_ANY, NEW_USER_NAMESPACE);
	/* It would write out the disks of the whole machine, over and over if it is told to; and there is nothing on a disk
	 * here that should outlive the sandbox. */
	refuse(writer, SYS_sync, DONE);
	refuse(writer, SYS_syncfs, DONE);
	refuse(writer, SYS_io_setup, ENOSYS); /* of what it takes the whole machine has 65536: libraries do without */
	refuse_foreign_families(writer, SYS_socket);
	refuse_foreign_families(writer, SYS_socketpair);
	/* A sibling of the command would not be below it. */
	refuse_if(writer, SYS_clone, 0, JUMP_IF_ANY, NEW_USER_NAMESPACE | PARENTS_CHILD);
	refuse_if(writer, SYS_ioctl, 1, JUMP_IF_EQUAL, PUT_INTO_TERMINAL);
	refuse_if(writer, SYS_ioctl, 1, JUMP_IF_EQUAL, TERMINAL_CONSOLE);
	for (size_t i = 0; i < sizeof on_processes / sizeof on_processes[0]; i++)
		refuse_if(writer, on_processes[i].number, on_processes[i].place, JUMP_IF_EQUAL, GUEST_PID);
	refuse_if(writer, SYS_setpriority, 0, JUMP_IF_EQUAL, PRIORITY_OF_USER);
	refuse_if(writer, SYS_ioprio_set, 0, JUMP_IF_EQUAL, IO_PRIORITY_OF_USER);
	refuse_leaving_subreaper(writer);
	emit(writer, RETURN, ALLOW, 0, 0);
}

static int install(const struct writer *writer)
{
	struct program program = {.size = writer->size, .instructions = (struct instruction *)(uintptr_t)writer->code};

	if (syscall(SYS_seccomp, MODE_FILTER, WITHOUT_SPECULATION_COST, &program) < 0 &&
	    syscall(SYS_seccomp, MODE_FILTER, 0u, &program) < 0)
		return complain("cannot install the system call filter: %s", strerror(errno));
	return 0;
}

int install_filter(bool refuse_message_queues, bool refuse_mounts)
{
	static struct writer writer;

	write_filter(&writer, refuse_message_queues, refuse_mounts);
	return install(&writer);
}

/* In addition, once a root is there for good. What the first filter kills or refuses it need not look at again. */
int install_mount_filter(void)
{
	static struct writer writer;

	emit_load(&writer, offsetof(struct call, number));
	refuse(&writer, SYS_mount, EPERM);
	refuse(&writer, SYS_umount2, EPERM);
	emit(&writer, RETURN, ALLOW, 0, 0);
	return install(&writer);
}
