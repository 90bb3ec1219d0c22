/* Preloaded into a run: counts what the process does to files under one folder, and lets it fail or die there.
 *
 * arm(root, kinds, kill_at, budget): paths that begin with `root` and hold one of the comma-separated `kinds` ("" holds
 * all). The process is killed before its `kill_at`-th operation, a write after half of its bytes (0: never). After
 * `budget` bytes written to such paths the disk is full (negative: never). operations() and written() tell how many
 * operations and bytes there were.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX], kinds[256];
static long kill_at, count, filled, budget = -1;

void arm(const char *folder, const char *which, long at, long bytes) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(kinds, sizeof kinds, "%s", which);
    kill_at = at, count = 0, filled = 0, budget = bytes;
}

long operations(void) { return count; }
long written(void) { return filled; }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int ours(const char *path) {
    if (!root[0] || !path || strncmp(path, root, strlen(root))) return 0;
    if (!kinds[0]) return 1;
    char copy[sizeof kinds], *rest = copy;
    strcpy(copy, kinds);
    for (char *kind; (kind = strsep(&rest, ","));)
        if (strstr(path, kind)) return 1;
    return 0;
}

static int ours_open(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

static int dies(void) { return __sync_add_and_fetch(&count, 1) == kill_at; }
static void at(int is_ours) {
    if (is_ours && dies()) kill(getpid(), SIGKILL);
}

/* How many of the bytes go to the disk; the rest finds it full. */
static size_t room(size_t bytes) {
    if (budget < 0) return bytes;
    size_t taken = bytes < (size_t)budget ? bytes : (size_t)budget;
    budget -= taken, filled += taken;
    return taken;
}

ssize_t write(int descriptor, const void *data, size_t bytes) {
    if (!ours_open(descriptor)) return NEXT(write)(descriptor, data, bytes);
    if (dies()) {
        NEXT(write)(descriptor, data, bytes / 2);
        kill(getpid(), SIGKILL);
    }
    size_t fits = room(bytes);
    if (!fits && bytes) return errno = ENOSPC, -1;
    return NEXT(write)(descriptor, data, fits);
}

ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    if (!ours_open(descriptor)) return NEXT(writev)(descriptor, parts, number);
    return number ? write(descriptor, parts[0].iov_base, parts[0].iov_len) : 0;
}

ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off64_t place) {
    if (!ours_open(descriptor)) return NEXT(pwrite64)(descriptor, data, bytes, place);
    if (dies()) {
        NEXT(pwrite64)(descriptor, data, bytes / 2, place);
        kill(getpid(), SIGKILL);
    }
    size_t fits = room(bytes);
    if (!fits && bytes) return errno = ENOSPC, -1;
    return NEXT(pwrite64)(descriptor, data, fits, place);
}

#define CREATES(flags) ((flags) & (O_CREAT | O_TRUNC))

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    at(CREATES(flags) && ours(path));
    return NEXT(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    at(CREATES(flags) && ours(path));
    return NEXT(open)(path, flags, mode);
}

int rename(const char *from, const char *to) {
    at(ours(from));
    return NEXT(rename)(from, to);
}

int unlink(const char *path) {
    at(ours(path));
    return NEXT(unlink)(path);
}

/* shutil.rmtree works with a folder's descriptor and names in it. */
int unlinkat(int folder, const char *path, int flags) {
    at(path[0] == '/' ? ours(path) : folder >= 0 && ours_open(folder));
    return NEXT(unlinkat)(folder, path, flags);
}

int rmdir(const char *path) {
    at(ours(path));
    return NEXT(rmdir)(path);
}

int mkdir(const char *path, mode_t mode) {
    at(ours(path));
    return NEXT(mkdir)(path, mode);
}

int chmod(const char *path, mode_t mode) {
    at(ours(path));
    return NEXT(chmod)(path, mode);
}

int fsync(int descriptor) {
    at(ours_open(descriptor));
    return NEXT(fsync)(descriptor);
}

int ftruncate64(int descriptor, off64_t length) {
    at(ours_open(descriptor));
    return NEXT(ftruncate64)(descriptor, length);
}
