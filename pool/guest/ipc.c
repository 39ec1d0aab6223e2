/* What outlives the processes that made it: System V IPC, POSIX message queues, descriptors sent and not received. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest.h"

#define MQUEUE_MAGIC 0x19800202

/* The kernel's, where libc hides or renames them */
#define LINUX_MSG_STAT_ANY 13
#define LINUX_SHM_STAT_ANY 15
#define LINUX_SEM_STAT_ANY 20

union semun {
	int value;
	struct semid_ds *status;
	struct seminfo *info;
};

/* Whoever made an object may remove it; the guest need not be almighty over the IPC namespace. */
static void as_maker(const struct guest *guest, uid_t maker, int (*destroy)(int), int id, int *errnum)
{
	bool change = !guest->options.self && maker != guest->own.uid;

	if ((change && syscall(SYS_setresuid, -1, maker, -1) < 0) || destroy(id) < 0)
		*errnum = errno;
	if (change && syscall(SYS_setresuid, -1, guest->own.uid, -1) < 0)
		_exit(complain("cannot become itself again: %s", strerror(errno)));
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* a change of user may have reset it */
}

static int destroy_segment(int id)
{
	return shmctl(id, IPC_RMID, NULL);
}

static int destroy_semaphores(int id)
{
	return semctl(id, 0, IPC_RMID);
}

static int destroy_messages(int id)
{
	return msgctl(id, IPC_RMID, NULL);
}

static void remove_segments(const struct guest *guest, int *errnum)
{
	struct shmid_ds status;
	int last = shmctl(0, SHM_INFO, (void *)&(struct shm_info){0});

	for (int index = 0; index <= last; index++) {
		int id = shmctl(index, LINUX_SHM_STAT_ANY, &status);

		if (id >= 0)
			as_maker(guest, status.shm_perm.uid, destroy_segment, id, errnum);
	}
}

static void remove_semaphore_sets(const struct guest *guest, int *errnum)
{
	struct semid_ds status;
	struct seminfo info;
	int last = semctl(0, 0, SEM_INFO, (union semun){.info = &info});

	for (int index = 0; index <= last; index++) {
		int id = semctl(index, 0, LINUX_SEM_STAT_ANY, (union semun){.status = &status});

		if (id >= 0)
			as_maker(guest, status.sem_perm.uid, destroy_semaphores, id, errnum);
	}
}

static void remove_message_queues(const struct guest *guest, int *errnum)
{
	struct msqid_ds status;
	int last = msgctl(0, MSG_INFO, (void *)&(struct msginfo){0});

	for (int index = 0; index <= last; index++) {
		int id = msgctl(index, LINUX_MSG_STAT_ANY, &status);

		if (id >= 0)
			as_maker(guest, status.msg_perm.uid, destroy_messages, id, errnum);
	}
}

bool has_mqueue_mount(void)
{
	struct statfs info;

	return statfs("/dev/mqueue", &info) == 0 && info.f_type == MQUEUE_MAGIC;
}

static void remove_posix_queues(int *errnum)
{
	static struct names names;
	cleanup_fd int dir = -1;
	struct name name;

	if (!has_mqueue_mount())
		return;
	dir = open("/dev/mqueue", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		*errnum = errno;
		return;
	}
	names_start(&names, dir);
	while (names_next(&names, &name) > 0)
		if (unlinkat(dir, name.text, 0) < 0)
			*errnum = errno;
}

/* 0 when nothing is left. In the machine's own IPC namespace all of it may be somebody else's: left alone. */
int remove_ipc(const struct guest *guest, struct failure *why)
{
	int errnum = 0;

	if (!guest->private_ipc)
		return 0;
	remove_segments(guest, &errnum);
	remove_semaphore_sets(guest, &errnum);
	remove_message_queues(guest, &errnum);
	remove_posix_queues(&errnum);
	if (errnum != 0)
		return fail(why, errnum, "cannot remove what is left in the IPC namespace: %s", strerror(errnum));
	return 0;
}

/* Descriptors that the killed had sent to each other and not received are closed when the kernel collects them, which it
 * does when a socket is closed, whosever it is. */
void collect_sent_descriptors(void)
{
	cleanup_fd int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}
