/* The root that commands see, where the launcher asks for one of the guest's own making: a directory that nothing can
 * change, or a layer over one that each RESTORE throws away whole.
 *
 * It is mounted below the guest's store, and guest and commands enter it by chroot alone. Docker's filter allows no
 * pivot_root, and moving the mount over the old root would add nothing: what keeps commands inside is that they have
 * neither CAP_SYS_CHROOT nor a descriptor from outside, and a RESTORE must get out again. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define STORE GUEST_STORE
#define STAGE ROOT_STAGE
#define BASE ROOT_BASE
#define UPPER ROOT_UPPER
#define WORK STAGE "/work"
#define NOTHING STAGE "/nothing"
#define OWN_FILES 13u /* of the stage itself: directories and the files of /etc */
#define BUSY_NS (2 * NS_PER_S) /* the kernel may still be closing what the killed had sent to each other */
#define BUSY_PAUSE_US 500

/* Not the image's but this container's: the runtime's own, and the accounts, which name the sandbox's agent. New in every
 * layer, where commands may change them. */
static const char *const etc_files[] = {"hosts", "hostname", "resolv.conf", "passwd", "group"};

static int make_dir(const char *path, mode_t mode, struct failure *why)
{
	return mkdir(path, mode) < 0 && errno != EEXIST ? cannot_mount(why, "make", path) : 0;
}

static int join(char *path, const char *base, const char *name, struct failure *why)
{
	int size = snprintf(path, PATH_BYTES, "%s%s", strcmp(base, "/") == 0 ? "" : base, name);

	return size < 0 || (unsigned int)size >= PATH_BYTES ? fail(why, ENAMETOOLONG, "%.150s is too long a path", name) : 0;
}

/* A user namespace that maps a part of all users has no say over the attributes that overlays use by default. */
static bool owns_all_users(const struct guest *guest)
{
	cleanup_fd int fd = guest->proc < 0 ? -1 : openat(guest->proc, "self/uid_map", O_RDONLY | O_CLOEXEC);
	char text[128];
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (size <= 0)
		return true;
	text[size] = '\0';
	return strstr(text, "4294967295") != NULL;
}

/* --- the layer ---------------------------------------------------------------------------------------------------- */

static int like(int to, const struct stat *status, struct failure *why)
{
	const struct timespec times[2] = {status->st_atim, status->st_mtim};

	if (fchown(to, status->st_uid, status->st_gid) < 0 || fchmod(to, status->st_mode & 07777) < 0 ||
	    futimens(to, times) < 0)
		return cannot_mount(why, "set up", UPPER);
	return 0;
}

static int dir_like(const char *path, const struct stat *status, struct failure *why)
{
	cleanup_fd int dir = -1;

	if (make_dir(path, 0700, why))
		return 1;
	dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return dir < 0 ? cannot_mount(why, "open", path) : like(dir, status, why);
}

/* One file of the old root's /etc, if it is there. */
static int copy_etc_file(const char *name, struct failure *why)
{
	static char bytes[64 << 10];
	char from[64], to[64];
	cleanup_fd int source = -1, target = -1;
	struct stat status;
	ssize_t size;

	snprintf(from, sizeof from, "/etc/%s", name);
	snprintf(to, sizeof to, UPPER "/etc/%s", name);
	source = open(from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (source < 0 || fstat(source, &status) < 0 || !S_ISREG(status.st_mode))
		return 0;
	target = open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (target < 0)
		return cannot_mount(why, "make", to);
	while ((size = read(source, bytes, sizeof bytes)) > 0)
		if (write(target, bytes, (size_t)size) != size)
			return cannot_mount(why, "write", to);
	if (size < 0)
		return cannot_mount(why, "read", from);
	return like(target, &status, why);
}

static int fill_upper(const char *lower, struct failure *why)
{
	char etc[PATH_BYTES];
	struct stat root, hidden, status;

	if (join(etc, lower, "/etc", why))
		return 1;
	if (stat(lower, &root) < 0)
		return cannot_mount(why, "look at", lower);
	hidden = root;
	hidden.st_mode = 0700;
	if (make_dir(UPPER, 0700, why))
		return 1;
	if (lstat(etc, &status) == 0 && S_ISDIR(status.st_mode)) {
		if (make_dir(UPPER "/etc", 0700, why))
			return 1;
		for (size_t i = 0; i < sizeof etc_files / sizeof etc_files[0]; i++)
			if (copy_etc_file(etc_files[i], why))
				return 1;
		if (dir_like(UPPER "/etc", &status, why))
			return 1;
	}
	return make_dir(UPPER STORE, 0700, why) || dir_like(UPPER STORE, &hidden, why) || dir_like(UPPER, &root, why);
}

static int mount_layer(const struct guest *guest, const char *lower, struct failure *why)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV;
	const bool whole = owns_all_users(guest);
	char data[PATH_BYTES + 128];

	if (make_dir(WORK, 0700, why) || fill_upper(lower, why))
		return 1;
	snprintf(data, sizeof data, "lowerdir=%s,upperdir=" UPPER ",workdir=" WORK ",%s", lower,
	         whole ? "redirect_dir=on,index=off,metacopy=off" : "userxattr");
	if (mount("overlay", BASE, "overlay", flags, data) == 0)
		return 0;
	if (whole && errno == EINVAL) { /* a kernel, or a lower file system, without renamed directories */
		snprintf(data, sizeof data, "lowerdir=%s,upperdir=" UPPER ",workdir=" WORK, lower);
		return mount_on("overlay", BASE, "overlay", flags, data, why);
	}
	return cannot_mount(why, "mount an overlay on", lower);
}

/* --- what is in every root ---------------------------------------------------------------------------------------- */

static int carry(const struct guest *guest, const char *path, unsigned long flags, struct failure *why)
{
	char target[PATH_BYTES];
	cleanup_fd int found = -1;

	if (join(target, BASE, path, why))
		return 1;
	found = open_root(guest, target, O_PATH, why); /* a link of the image's would lead to the old root */
	return found < 0 || mount_on(path, target, NULL, MS_BIND | flags, NULL, why);
}

/* Under a layer commands are root, whose searches of the whole tree are compared from sandbox to sandbox. The guest's
 * files in /proc are a few that may not even be listed, and the block devices of FUSE file systems in /sys come and go with
 * other sandboxes: they are shown empty instead. */
static int hide_lists(struct failure *why)
{
	static const char *const lists[] = {"/proc/1/fdinfo", "/proc/1/map_files", "/proc/1/task/1/fdinfo",
	                                    "/sys/devices/virtual/bdi"};
	char path[PATH_BYTES];
	struct stat status;

	if (make_dir(NOTHING, 0500, why))
		return 1;
	for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
		snprintf(path, sizeof path, BASE "%s", lists[i]);
		if (stat(path, &status) == 0 &&
		    (mount_on(NOTHING, path, NULL, MS_BIND, NULL, why) || make_read_only(path, MS_NOSUID | MS_NODEV, why)))
			return 1;
	}
	return 0;
}

/* Through a writable /proc root could set the guest's own scores and, its files being one for the whole machine,
 * change their modes for everybody. */
static int carry_system(const struct guest *guest, struct failure *why)
{
	struct stat status;

	if (carry(guest, "/proc", MS_REC, why) || make_read_only(BASE "/proc", 0, why))
		return 1;
	if (stat("/sys/kernel", &status) == 0 && carry(guest, "/sys", MS_REC, why))
		return 1;
	if (carry(guest, "/dev", MS_REC, why))
		return 1;
	if (stat("/dev/mqueue", &status) == 0 &&
	    (chown(BASE "/dev/mqueue", 0, 0) < 0 || chmod(BASE "/dev/mqueue", 01777) < 0))
		return cannot_mount(why, "set up", "/dev/mqueue");
	if (stat("/dev/pts", &status) < 0)
		return 0;
	return mount_on("devpts", BASE "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, 
	                "newinstance,gid=5,mode=0620,ptmxmode=0666", why);
}

static int carry_etc(struct failure *why)
{
	for (size_t i = 0; i < sizeof etc_files / sizeof etc_files[0]; i++) {
		char from[64], to[64];
		struct stat status;

		snprintf(from, sizeof from, "/etc/%s", etc_files[i]);
		snprintf(to, sizeof to, BASE "/etc/%s", etc_files[i]);
		if (lstat(from, &status) == 0 && S_ISREG(status.st_mode) && lstat(to, &status) == 0 &&
		    S_ISREG(status.st_mode) &&
		    (mount_on(from, to, NULL, MS_BIND, NULL, why) || make_read_only(to, MS_NOSUID | MS_NODEV, why)))
			return 1;
	}
	return 0;
}

/* A directory for a tree that the image does not have. */
static int make_place(const char *tree, struct failure *why)
{
	char path[PATH_BYTES];

	if (join(path, BASE, tree, why))
		return 1;
	for (char *at = strchr(path + sizeof BASE, '/');; at = strchr(at + 1, '/')) {
		if (at != NULL)
			*at = '\0';
		if (make_dir(path, 0755, why))
			return 1;
		if (at == NULL)
			return 0;
		*at = '/';
	}
}

static int build(struct guest *guest, struct failure *why)
{
	struct own_root *own = &guest->options.root;
	char limits[96];

	snprintf(limits, sizeof limits, "mode=0700,size=%um,nr_inodes=%u", own->layer ? own->bytes_mib : 1,
	         own->files + OWN_FILES);
	if (mount_on("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, limits, why) || make_dir(BASE, 0755, why))
		return 1;
	if (own->layer) {
		if (mount_layer(guest, own->from, why))
			return 1;
	} else if (mount_on(own->from, BASE, NULL, MS_BIND, NULL, why) ||
	           make_read_only(BASE, MS_NOSUID | MS_NODEV, why) || carry_etc(why)) {
		return 1;
	}
	if (carry_system(guest, why) || (own->layer && hide_lists(why)))
		return 1;
	for (uint32_t i = 0; i < own->trees_count; i++)
		if ((own->layer && make_place(own->trees[i], why)) || carry(guest, own->trees[i], 0, why))
			return 1;
	if (own->layer)
		layer_mark(guest, &own->mark);
	return 0;
}

/* --- and its end --------------------------------------------------------------------------------------------------- */

/* Root may have renamed a directory that something is mounted below: then the kernel knows where it is. */
static int detach(const char *path, struct failure *why)
{
	(void)why;
	umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
	return 0;
}

/* Unmounted, not merely detached: it is the proof that nothing uses it any more. */
static int unmount(const struct guest *guest, const char *path, struct failure *why)
{
	uint64_t deadline = now_ns() + BUSY_NS;

	while (umount2(path, UMOUNT_NOFOLLOW) < 0) {
		if (errno != EBUSY || now_ns() > deadline)
			return cannot_mount(why, "unmount", path);
		if (each_mount_below(guest, BASE, detach, why))
			return 1;
		collect_sent_descriptors();
		usleep(BUSY_PAUSE_US);
	}
	return 0;
}

/* From inside, where an agent's links lead to no mount of the old root's. */
static void detach_carried(const struct own_root *own)
{
	static const char *const system[] = {"/proc", "/sys", "/dev", STORE};

	for (uint32_t i = own->trees_count; i-- > 0;)
		umount2(own->trees[i], MNT_DETACH | UMOUNT_NOFOLLOW);
	for (size_t i = 0; i < sizeof system / sizeof system[0]; i++)
		umount2(system[i], MNT_DETACH | UMOUNT_NOFOLLOW);
}

/* --- going in and out ---------------------------------------------------------------------------------------------- */

static int go_in(struct failure *why)
{
	return chroot(BASE) < 0 || chdir("/") < 0 ? cannot_mount(why, "enter", BASE) : 0;
}

static int go_out(const struct guest *guest, struct failure *why)
{
	return fchdir(guest->outside) < 0 || chroot(".") < 0 ? cannot_mount(why, "leave", BASE) : 0;
}

/* Snapshots are read in RESTORE, while no command runs that could see them. Under a root that is not thrown away they
 * stay, for commands have no power over files there. */
static int show_snapshots(struct failure *why)
{
	struct stat status;

	if (stat(STORE "/snapshots", &status) < 0) /* a sandbox that gets none */
		return 0;
	if (mount_on("tmpfs", BASE STORE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=64k,nr_inodes=4", why) ||
	    make_dir(BASE STORE "/snapshots", 0700, why))
		return 1;
	return mount_on(STORE "/snapshots", BASE STORE "/snapshots", NULL, MS_BIND, NULL, why);
}

/* A copy of the same files in a faster place may be made while the first sandboxes run already. It can be seen from the
 * old root. */
static bool take_better(struct own_root *root)
{
	struct stat status;

	if (root->better == NULL || lstat(root->better, &status) < 0)
		return false;
	root->from = root->better;
	root->better = NULL;
	return true;
}

/* This root is for good: no more mounting. */
static int settle(const struct guest *guest, struct failure *why)
{
	return drop_mounting_capabilities() || (guest->options.seccomp && install_mount_filter())
	           ? fail(why, EPERM, "cannot give up the power to mount")
	           : 0;
}

static int read_only_but_trees(const char *path, struct failure *why)
{
	static const char *const writable[] = {"/dev/pts", "/dev/shm", "/dev/mqueue"};

	for (size_t i = 0; i < sizeof writable / sizeof writable[0]; i++)
		if (strcmp(path, writable[i]) == 0)
			return 0;
	return make_read_only(path, 0, why);
}

/* In the old root, once, for all that are made of it: descriptors that commands inherit were opened there, and what
 * hides files is itself a device or a directory whose mode root could change. /proc stays writable for the guest. */
static int close_system(const struct guest *guest, struct failure *why)
{
	static const char *const system[] = {"/proc", "/sys", "/dev"};

	for (size_t i = 0; i < sizeof system / sizeof system[0]; i++)
		if (each_mount_below(guest, system[i], read_only_but_trees, why))
			return 1;
	return make_read_only("/dev", 0, why);
}

int root_enter(struct guest *guest)
{
	struct failure why = {.errnum = 0};

	if (guest->options.root.from == NULL)
		return 0;
	take_better(&guest->options.root);
	guest->outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (guest->outside < 0)
		return complain("cannot open the old root: %s", strerror(errno));
	if (mount_on(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL, &why) || close_system(guest, &why) || build(guest, &why) || (!guest->options.root.layer && show_snapshots(&why)) || go_in(&why))
		return complain("%s", why.text);
	return 0;
}

/* Nothing runs. Afterwards the root is new, and the snapshots can be seen until root_hide_snapshots. */
int root_renew(struct guest *guest, struct failure *why)
{
	struct own_root *root = &guest->options.root;

	if (!root->layer && root->better == NULL)
		return 0;
	if (go_out(guest, why))
		return 1;
	if (!take_better(root) && !root->layer)
		return go_in(why);
	if (go_in(why))
		return 1;
	detach_carried(root);
	if (go_out(guest, why) || unmount(guest, BASE, why) || unmount(guest, STAGE, why) || build(guest, why) ||
	    show_snapshots(why) || go_in(why))
		return 1;
	return root->layer ? 0 : settle(guest, why);
}

int root_hide_snapshots(const struct guest *guest, struct failure *why)
{
	if (!guest->options.root.layer)
		return 0;
	return umount2(STORE, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL ? cannot_mount(why, "hide", STORE) : 0;
}
