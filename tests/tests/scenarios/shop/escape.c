/* A library whose constructor tries to get out of a rehearsal, for load_module. What must never work is reported as "GOT …"
 * on standard error; what may work in the private view (writes) is judged from outside, by looking at the live host. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void got(int worked, const char *what, const char *detail)
{
	if (worked)
		dprintf(2, "GOT %s %s\n", what, detail);
}

static void write_everywhere(void)
{
	static const char *places[] = { "/etc/escaped", "/etc/nginx/escaped", "/var/escaped", "/var/log/nginx/escaped", "/run/escaped",
		"/usr/local/escaped", "/opt/escaped", "/home/escaped", "/root/escaped", "/srv/escaped", "/dev/shm/escaped", "/dev/escaped",
		"/tmp/escaped", "/proc/1/root/etc/escaped2", "/proc/self/cwd/etc/escaped3" };
	for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
		int fd = open(places[i], O_WRONLY | O_CREAT | O_TRUNC, 0644);
		if (fd >= 0 && write(fd, "escaped\n", 8) == 8)
			close(fd);
	}
	(void)!truncate("/etc/nginx/nginx.conf", 0);
	(void)!chmod("/etc/shadow", 0666);
	(void)!chown("/etc/passwd", 65534, 65534);
	(void)!unlink("/etc/hostname");
	(void)!rename("/etc/group", "/etc/group.escaped");
	(void)!mkdir("/srv/escaped.d", 0777);
	(void)!symlink("/etc/shadow", "/srv/escaped.link");
	(void)!link("/etc/passwd", "/etc/escaped.hard");
	(void)!unlink("/run/nginx.pid");
}

static void mounts(void)
{
	char line[4096], point[4096];
	FILE *table = fopen("/proc/self/mounts", "r");
	while (table && fgets(line, sizeof line, table)) {
		char *from = strchr(line, ' '), *to = from ? strchr(from + 1, ' ') : NULL;
		if (!to)
			continue;
		*to = 0;
		strcpy(point, from + 1);
		got(umount2(point, MNT_DETACH) == 0, "umount", point);
	}
	got(mount("tmpfs", "/etc", "tmpfs", 0, NULL) == 0, "mount", "/etc");
	got(mount("/", "/mnt", NULL, MS_BIND, NULL) == 0, "bind", "/mnt");
	got(mount(NULL, "/proc", NULL, MS_REMOUNT | MS_BIND, NULL) == 0, "remount", "/proc");
	got(mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND, NULL) == 0, "remount", "/sys");
}

static void namespaces(void)
{
	got(unshare(CLONE_NEWNS) == 0, "a mount namespace", "");
	pid_t child = fork();
	if (child == 0) {
		if (unshare(CLONE_NEWUSER) == 0)
			got(1, "a user namespace", unshare(CLONE_NEWNS | CLONE_NEWNET) == 0 ? "and others in it" : "");
		_exit(0);
	}
	waitpid(child, NULL, 0);
	int fd = open("/proc/1/ns/mnt", O_RDONLY);
	got(fd >= 0 && setns(fd, 0) == 0, "setns", "of PID 1");
}

static void processes(void)
{
	char text[32] = "";
	int fd = open("/run/nginx.pid", O_RDONLY), pid = 0;
	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
		for (char *c = text; *c >= '0' && *c <= '9'; c++)
			pid = pid * 10 + *c - '0';
	if (pid > 1) {
		got(ptrace(PTRACE_SEIZE, pid, 0, 0) == 0, "ptrace", "of the nginx master");
		got(kill(pid, SIGKILL) == 0, "kill", "of the nginx master");
	}
	DIR *proc = opendir("/proc");
	for (struct dirent *e; proc && (e = readdir(proc));) {
		char path[300], name[64] = "";
		snprintf(path, sizeof path, "/proc/%s/comm", e->d_name);
		if ((fd = open(path, O_RDONLY)) < 0)
			continue;
		(void)!read(fd, name, sizeof name - 1);
		close(fd);
		got(!strncmp(name, "systemd", 7) || !strncmp(name, "sshd", 4) || !strncmp(name, "dbus", 4), "sight of a host process:", name);
	}
	kill(-1, SIGKILL);
}

static void devices(void)
{
	got(mknod("/srv/escaped.block", S_IFBLK | 0600, makedev(8, 0)) == 0, "mknod", "b 8 0");
	got(mknod("/srv/escaped.char", S_IFCHR | 0600, makedev(1, 1)) == 0, "mknod", "c 1 1");
	DIR *dev = opendir("/dev");
	for (struct dirent *e; dev && (e = readdir(dev));) {
		char path[300];
		struct stat is;
		snprintf(path, sizeof path, "/dev/%s", e->d_name);
		if (lstat(path, &is) == 0 && S_ISBLK(is.st_mode))
			got(1, "a block device", path);
	}
	static const char *interfaces[] = { "/dev/kmsg", "/dev/mem", "/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/proc/sysrq-trigger",
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sys/fs/file-max",
		"/proc/sys/net/ipv4/ip_forward", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/system.slice/cgroup.procs",
		"/sys/power/state", "/proc/kcore" };
	for (unsigned i = 0; i < sizeof interfaces / sizeof *interfaces; i++)
		got(open(interfaces[i], O_WRONLY) >= 0, "write access to", interfaces[i]);
}

static void network(void)
{
	struct ifreq is = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	got(fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &is) == 0 && ioctl(fd, SIOCSIFFLAGS, &is) == 0, "the network's settings", "");
	if (fd >= 0)
		close(fd);
}

static void connect_to(const char *name, size_t length, const char *shown)
{
	for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type++) {
		struct sockaddr_un to = { .sun_family = AF_UNIX };
		int fd = socket(AF_UNIX, type, 0);
		memcpy(to.sun_path, name, length);
		got(fd >= 0 && connect(fd, (struct sockaddr *)&to, offsetof(struct sockaddr_un, sun_path) + length) == 0, "connect", shown);
		if (fd >= 0)
			close(fd);
	}
}

static void sockets(void)
{
	char line[512];
	FILE *table = fopen("/proc/net/unix", "r");
	while (table && fgets(line, sizeof line, table)) {
		char *name = strpbrk(line, "@/");
		line[strcspn(line, "\n")] = 0;
		if (!name || strlen(name) >= 108)
			continue;
		char shown[512];
		strcpy(shown, name);
		size_t length = strlen(name) + (*name == '/');
		if (*name == '@')
			*name = 0;
		connect_to(name, length, shown);
	}
	static const char *known[] = { "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/notify", "/run/systemd/journal/socket",
		"/run/systemd/journal/stdout", "/run/systemd/journal/dev-log", "/run/udev/control", "/dev/log" };
	for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
		connect_to(known[i], strlen(known[i]) + 1, known[i]);
}

static void other_root(void)
{
	int top = open("/", O_RDONLY | O_DIRECTORY);
	mkdir("/srv/cage", 0755);
	if (chroot("/srv/cage") == 0) {
		got(1, "chroot", "");
		(void)!fchdir(top);
		for (int i = 0; i < 64; i++)
			(void)!chdir("..");
		(void)!chroot(".");
		int fd = open("/etc/escaped4", O_WRONLY | O_CREAT, 0644);
		got(fd >= 0, "a file behind chroot", "");
	}
	(void)!shmget(0x657363, 4096, IPC_CREAT | 0666);
	got(sethostname("escaped", 7) == 0, "sethostname", "");
}

static void inherited(void)
{
	for (int fd = 0; fd < 1024; fd++) {
		struct stat is;
		got(fstat(fd, &is) == 0 && S_ISDIR(is.st_mode), "an inherited directory", "");
	}
}

__attribute__((constructor)) static void escape(void)
{
	dprintf(2, "the library runs as uid %d\n", (int)getuid());
	inherited();
	mounts();
	namespaces();
	devices();
	sockets();
	network();
	other_root();
	write_everywhere();
	processes();
	dprintf(2, "the library has tried everything\n");
}
