/* Records what a process writes and syncs below a directory: preloaded before libc, for tests.
 *
 * Every event is one append to the trace, so that the events of several processes lie in one order.
 * A write is recorded before it is done; a sync twice, before and after.
 *
 * Event: kind u8, flag u8, lengths of two paths u32 u32, offset u64, number u64, length of data u64,
 * then both paths and the data. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPENED = 1, WRITTEN, SYNCING, SYNCED, RENAMED, UNLINKED, MADE_DIRECTORY, TRUNCATED };

struct __attribute__((packed)) event {
    uint8_t kind, flag;
    uint32_t path_length, other_length;
    uint64_t offset, number, data_length;
};

static const char *root(void) { return getenv("SHOAL_TRACE_ROOT"); }

static int trace(void) {
    static int descriptor = -1;
    if (descriptor < 0)
        descriptor = (int)syscall(SYS_openat, AT_FDCWD, getenv("SHOAL_TRACE_FILE"),
                                  O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    return descriptor;
}

static int is_below(const char *path) {
    const char *prefix = root();
    return prefix && strncmp(path, prefix, strlen(prefix)) == 0;
}

static void record(int kind, int flag, const char *path, const char *other, uint64_t offset,
                   uint64_t number, const void *data, size_t length) {
    struct event event = {kind, flag, strlen(path), strlen(other), offset, number, length};
    struct iovec parts[4] = {{&event, sizeof event},
                             {(void *)path, strlen(path)},
                             {(void *)other, strlen(other)},
                             {(void *)data, length}};
    size_t total = sizeof event + strlen(path) + strlen(other) + length;
    int saved = errno;
    if (syscall(SYS_writev, trace(), parts, 4) != (long)total) abort();
    errno = saved;
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path) && !strstr(path, " (deleted)");
}

static void path_at(int directory, const char *name, char *path) {
    char base[PATH_MAX] = "";
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char link[64] = "/proc/self/cwd";
        if (directory != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, base, PATH_MAX - 1);
        base[length < 0 ? 0 : length] = 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) abort();
    }
}


static int opened(int directory, const char *name, int flags, mode_t mode) {
    int descriptor = (int)syscall(SYS_openat, directory, name, flags, mode);
    char path[PATH_MAX];
    if (descriptor >= 0 && (flags & (O_CREAT | O_TRUNC)) && path_of(descriptor, path))
        record(OPENED, (flags & O_TRUNC) != 0, path, "", 0, 0, NULL, 0);
    return descriptor;
}

#define MODE                                     \
    mode_t mode = 0;                             \
    if (flags & (O_CREAT | __O_TMPFILE)) {       \
        va_list rest;                            \
        va_start(rest, flags);                   \
        mode = va_arg(rest, mode_t);             \
        va_end(rest);                            \
    }

int open(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags, mode); }

static void writing(int descriptor, const struct iovec *parts, int count, int64_t offset) {
    char path[PATH_MAX];
    if (!path_of(descriptor, path)) return;
    int flags = fcntl(descriptor, F_GETFL);
    if (offset < 0) {
        struct stat status;
        fstat(descriptor, &status);
        offset = flags & O_APPEND ? status.st_size : lseek(descriptor, 0, SEEK_CUR);
    }
    size_t total = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    char *data = malloc(total + 1), *end = data;
    for (int i = 0; i < count; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    record(WRITTEN, (flags & O_DSYNC) != 0, path, "", offset, 0, data, total);
    free(data);
}

ssize_t write(int descriptor, const void *data, size_t length) {
    struct iovec part = {(void *)data, length};
    writing(descriptor, &part, 1, -1);
    return syscall(SYS_write, descriptor, data, length);
}
ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    writing(descriptor, parts, count, -1);
    return syscall(SYS_writev, descriptor, parts, count);
}
ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset) {
    struct iovec part = {(void *)data, length};
    writing(descriptor, &part, 1, offset);
    return syscall(SYS_pwrite64, descriptor, data, length, offset);
}
ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset) {
    return pwrite64(descriptor, data, length, offset);
}
ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset) {
    writing(descriptor, parts, count, offset);
    return syscall(SYS_pwritev, descriptor, parts, count, offset, 0);
}
ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(descriptor, parts, count, offset);
}

static int synced(int descriptor, long call) {
    static uint64_t last;
    char path[PATH_MAX];
    int counts = path_of(descriptor, path);
    uint64_t number = (uint64_t)getpid() << 32 | __atomic_add_fetch(&last, 1, __ATOMIC_SEQ_CST);
    if (counts) record(SYNCING, 0, path, "", 0, number, NULL, 0);
    int result = (int)syscall(call, descriptor);
    if (counts && !result) record(SYNCED, 0, path, "", 0, number, NULL, 0);
    return result;
}
int fsync(int descriptor) { return synced(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return synced(descriptor, SYS_fdatasync); }

int renameat(int from_at, const char *from, int to_at, const char *to) {
    char old[PATH_MAX], new[PATH_MAX];
    path_at(from_at, from, old);
    path_at(to_at, to, new);
    int result = (int)syscall(SYS_renameat2, from_at, from, to_at, to, 0);
    if (!result && is_below(old)) record(RENAMED, 0, old, new, 0, 0, NULL, 0);
    return result;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    path_at(at, name, path);
    int result = (int)syscall(SYS_unlinkat, at, name, flags);
    if (!result && is_below(path)) record(UNLINKED, 0, path, "", 0, 0, NULL, 0);
    return result;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int at, const char *name, mode_t mode) {
    char path[PATH_MAX];
    path_at(at, name, path);
    int result = (int)syscall(SYS_mkdirat, at, name, mode);
    if (!result && is_below(path)) record(MADE_DIRECTORY, 0, path, "", 0, 0, NULL, 0);
    return result;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int ftruncate64(int descriptor, off64_t length) {
    char path[PATH_MAX];
    if (path_of(descriptor, path)) record(TRUNCATED, 0, path, "", length, 0, NULL, 0);
    return (int)syscall(SYS_ftruncate, descriptor, length);
}
int ftruncate(int descriptor, off_t length) { return ftruncate64(descriptor, length); }
