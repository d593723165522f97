/* A file system that fails: preloaded, it makes chosen calls under one folder fail.

   gcc -shared -fPIC -O1 -o shim.so disk_faults.c -ldl; LD_PRELOAD=shim.so python …

   `arm` says where, which kinds of calls count (a mask of the classes below), at which of them it
   begins, whether it goes on from there, and what happens: an errno, half of the bytes, or none.
   What libraries call (SQLite, torch, Rust's) is counted like what Python calls. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ = 1, WRITE = 2, SYNC = 4, OPEN = 8, CREATE = 16, NAME = 32, REMOVE = 64, MODE = 128,
       STAT = 256, LIST = 512, MAP = 1024, LOCK = 2048, CLOSE = 4096 };
enum { SHORT = -1, END = -2 };

#define MOST 65536
static unsigned char tracked[MOST]; /* 1: opened to read, 2: to write */
static char root[4096];
static size_t root_length;
static int armed, mask, outcome, sticky;
static long point, seen, fired;

void arm(const char *folder, int classes, long first, int goes_on, int what) {
  strncpy(root, folder, sizeof root - 1);
  root_length = strlen(root);
  mask = classes; point = first; sticky = goes_on; outcome = what;
  seen = fired = 0;
  armed = 1;
}
long disarm(void) { armed = 0; return fired; }
long calls(void) { return seen; }

static int under(int at, const char *path) {
  if (!armed || !path) return 0;
  if (path[0] == '/') return !strncmp(path, root, root_length);
  if (at >= 0) return at < MOST && tracked[at];
  char here[4096];
  return getcwd(here, sizeof here) && !strncmp(here, root, root_length);
}
static int is_tracked(int fd) { return armed && fd >= 0 && fd < MOST && tracked[fd]; }

/* 0: go on; 1: fail with `outcome` in errno; SHORT or END. */
static int strikes(int class) {
  if (!(mask & class)) return 0;
  long number = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
  if (point <= 0 || (sticky ? number < point : number != point)) return 0;
  __atomic_add_fetch(&fired, 1, __ATOMIC_SEQ_CST);
  if (outcome < 0) return outcome;
  errno = outcome;
  return 1;
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }
static int opened(int fd, int ours, int flags) {
  if (fd >= 0 && fd < MOST) tracked[fd] = ours ? (writes(flags) ? 2 : 1) : 0;
  return fd;
}

#define OPENS(NAME_) \
  int NAME_(const char *path, int flags, ...) { \
    REAL(int, #NAME_, const char *, int, ...); \
    va_list list; va_start(list, flags); \
    mode_t mode = va_arg(list, mode_t); va_end(list); \
    int ours = under(-1, path); \
    if (ours && strikes(writes(flags) ? CREATE : OPEN) == 1) return -1; \
    return opened(real(path, flags, mode), ours, flags); \
  }
OPENS(open) OPENS(open64)
#define OPENS_AT(NAME_) \
  int NAME_(int at, const char *path, int flags, ...) { \
    REAL(int, #NAME_, int, const char *, int, ...); \
    va_list list; va_start(list, flags); \
    mode_t mode = va_arg(list, mode_t); va_end(list); \
    int ours = under(at, path); \
    if (ours && strikes(writes(flags) ? CREATE : OPEN) == 1) return -1; \
    return opened(real(at, path, flags, mode), ours, flags); \
  }
OPENS_AT(openat) OPENS_AT(openat64)

int close(int fd) {
  REAL(int, "close", int);
  int state = is_tracked(fd) ? tracked[fd] : 0;
  if (fd >= 0 && fd < MOST) tracked[fd] = 0;
  int result = real(fd);
  return state == 2 && strikes(CLOSE) == 1 ? -1 : result;
}

static size_t some(int how, size_t count) { return how == END ? 0 : (count > 1 ? count / 2 : count); }

#define TRANSFERS(NAME_, CLASS, BUFFER) \
  ssize_t NAME_(int fd, BUFFER data, size_t count) { \
    REAL(ssize_t, #NAME_, int, BUFFER, size_t); \
    int how = is_tracked(fd) ? strikes(CLASS) : 0; \
    if (how == 1) return -1; \
    return real(fd, data, how ? some(how, count) : count); \
  }
TRANSFERS(read, READ, void *) TRANSFERS(write, WRITE, const void *)
#define TRANSFERS_AT(NAME_, CLASS, BUFFER) \
  ssize_t NAME_(int fd, BUFFER data, size_t count, off_t offset) { \
    REAL(ssize_t, #NAME_, int, BUFFER, size_t, off_t); \
    int how = is_tracked(fd) ? strikes(CLASS) : 0; \
    if (how == 1) return -1; \
    return real(fd, data, how ? some(how, count) : count, offset); \
  }
TRANSFERS_AT(pread, READ, void *) TRANSFERS_AT(pread64, READ, void *)
TRANSFERS_AT(pwrite, WRITE, const void *) TRANSFERS_AT(pwrite64, WRITE, const void *)

/* Of a vector only the first part is shortened: what is handled of one is handled of many. */
#define VECTORS(NAME_, CLASS, ...) \
    int how = is_tracked(fd) ? strikes(CLASS) : 0; \
    if (how == 1) return -1; \
    if (how == END) return 0; \
    struct iovec first; \
    if (how == SHORT && count) { \
      first = parts[0]; first.iov_len = some(how, first.iov_len); parts = &first; count = 1; }
ssize_t readv(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, "readv", int, const struct iovec *, int); VECTORS(readv, READ)
  return real(fd, parts, count); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, "writev", int, const struct iovec *, int); VECTORS(writev, WRITE)
  return real(fd, parts, count); }
#define VECTORS_AT(NAME_, CLASS) \
  ssize_t NAME_(int fd, const struct iovec *parts, int count, off_t offset) { \
    REAL(ssize_t, #NAME_, int, const struct iovec *, int, off_t); VECTORS(NAME_, CLASS) \
    return real(fd, parts, count, offset); }
VECTORS_AT(preadv, READ) VECTORS_AT(preadv64, READ) VECTORS_AT(pwritev, WRITE) VECTORS_AT(pwritev64, WRITE)
#define VECTORS_AT_2(NAME_, CLASS) \
  ssize_t NAME_(int fd, const struct iovec *parts, int count, off_t offset, int flags) { \
    REAL(ssize_t, #NAME_, int, const struct iovec *, int, off_t, int); VECTORS(NAME_, CLASS) \
    return real(fd, parts, count, offset, flags); }
VECTORS_AT_2(preadv2, READ) VECTORS_AT_2(preadv64v2, READ) VECTORS_AT_2(pwritev2, WRITE) VECTORS_AT_2(pwritev64v2, WRITE)

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
  REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
  int how = is_tracked(in) ? strikes(READ) : 0;
  if (!how && is_tracked(out)) how = strikes(WRITE);
  if (how == 1) return -1;
  if (how == END) return 0;
  return real(in, from, out, to, how ? some(how, count) : count, flags);
}
ssize_t sendfile(int out, int in, off_t *from, size_t count) {
  REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
  int how = is_tracked(in) ? strikes(READ) : 0;
  if (!how && is_tracked(out)) how = strikes(WRITE);
  if (how == 1) return -1;
  if (how == END) return 0;
  return real(out, in, from, how ? some(how, count) : count);
}

#define ON_FILE(NAME_, CLASS, PARAMETERS, ARGUMENTS, TYPES) \
  int NAME_ PARAMETERS { \
    REAL(int, #NAME_, TYPES); \
    if (is_tracked(fd) && strikes(CLASS) == 1) return -1; \
    return real ARGUMENTS; \
  }
#define T2(...) __VA_ARGS__
ON_FILE(fsync, SYNC, (int fd), (fd), int)
ON_FILE(fdatasync, SYNC, (int fd), (fd), int)
ON_FILE(ftruncate, WRITE, (int fd, off_t n), (fd, n), T2(int, off_t))
ON_FILE(ftruncate64, WRITE, (int fd, off64_t n), (fd, n), T2(int, off64_t))
ON_FILE(fchmod, MODE, (int fd, mode_t m), (fd, m), T2(int, mode_t))
ON_FILE(futimens, MODE, (int fd, const struct timespec t[2]), (fd, t), T2(int, const struct timespec *))
ON_FILE(fstat, STAT, (int fd, struct stat *s), (fd, s), T2(int, struct stat *))
ON_FILE(fstat64, STAT, (int fd, struct stat64 *s), (fd, s), T2(int, struct stat64 *))
ON_FILE(flock, LOCK, (int fd, int o), (fd, o), T2(int, int))
/* These return the error instead of setting it. */
#define ALLOCATES(NAME_, OFFSET) \
  int NAME_(int fd, OFFSET start, OFFSET length) { \
    REAL(int, #NAME_, int, OFFSET, OFFSET); \
    if (is_tracked(fd) && strikes(WRITE) == 1) return errno; \
    return real(fd, start, length); \
  }
ALLOCATES(posix_fallocate, off_t) ALLOCATES(posix_fallocate64, off64_t)

#define ON_PATH(NAME_, CLASS, PARAMETERS, ARGUMENTS, TYPES) \
  int NAME_ PARAMETERS { \
    REAL(int, #NAME_, TYPES); \
    if (under(-1, path) && strikes(CLASS) == 1) return -1; \
    return real ARGUMENTS; \
  }
ON_PATH(mkdir, NAME, (const char *path, mode_t m), (path, m), T2(const char *, mode_t))
ON_PATH(rename, NAME, (const char *from, const char *path), (from, path), T2(const char *, const char *))
ON_PATH(link, NAME, (const char *from, const char *path), (from, path), T2(const char *, const char *))
ON_PATH(symlink, NAME, (const char *to, const char *path), (to, path), T2(const char *, const char *))
ON_PATH(unlink, REMOVE, (const char *path), (path), const char *)
ON_PATH(rmdir, REMOVE, (const char *path), (path), const char *)
ON_PATH(chmod, MODE, (const char *path, mode_t m), (path, m), T2(const char *, mode_t))
ON_PATH(stat, STAT, (const char *path, struct stat *s), (path, s), T2(const char *, struct stat *))
ON_PATH(stat64, STAT, (const char *path, struct stat64 *s), (path, s), T2(const char *, struct stat64 *))
ON_PATH(lstat, STAT, (const char *path, struct stat *s), (path, s), T2(const char *, struct stat *))
ON_PATH(lstat64, STAT, (const char *path, struct stat64 *s), (path, s), T2(const char *, struct stat64 *))

#define AT_PATH(NAME_, CLASS, PARAMETERS, ARGUMENTS, TYPES) \
  int NAME_ PARAMETERS { \
    REAL(int, #NAME_, TYPES); \
    if (under(at, path) && strikes(CLASS) == 1) return -1; \
    return real ARGUMENTS; \
  }
AT_PATH(mkdirat, NAME, (int at, const char *path, mode_t m), (at, path, m), T2(int, const char *, mode_t))
AT_PATH(renameat, NAME, (int from, const char *old, int at, const char *path), (from, old, at, path),
        T2(int, const char *, int, const char *))
AT_PATH(linkat, NAME, (int from, const char *old, int at, const char *path, int flags),
        (from, old, at, path, flags), T2(int, const char *, int, const char *, int))
AT_PATH(symlinkat, NAME, (const char *to, int at, const char *path), (to, at, path),
        T2(const char *, int, const char *))
AT_PATH(unlinkat, REMOVE, (int at, const char *path, int flags), (at, path, flags),
        T2(int, const char *, int))
AT_PATH(fchmodat, MODE, (int at, const char *path, mode_t m, int flags), (at, path, m, flags),
        T2(int, const char *, mode_t, int))
AT_PATH(utimensat, MODE, (int at, const char *path, const struct timespec t[2], int flags),
        (at, path, t, flags), T2(int, const char *, const struct timespec *, int))
AT_PATH(fstatat, STAT, (int at, const char *path, struct stat *s, int flags), (at, path, s, flags),
        T2(int, const char *, struct stat *, int))
AT_PATH(fstatat64, STAT, (int at, const char *path, struct stat64 *s, int flags),
        (at, path, s, flags), T2(int, const char *, struct stat64 *, int))
AT_PATH(statx, STAT, (int at, const char *path, int flags, unsigned what, struct statx *s),
        (at, path, flags, what, s), T2(int, const char *, int, unsigned, struct statx *))

DIR *opendir(const char *path) {
  REAL(DIR *, "opendir", const char *);
  return under(-1, path) && strikes(LIST) == 1 ? NULL : real(path);
}
#define MAPS(NAME_, OFFSET) \
  void *NAME_(void *a, size_t n, int prot, int flags, int fd, OFFSET offset) { \
    REAL(void *, #NAME_, void *, size_t, int, int, int, OFFSET); \
    return fd >= 0 && is_tracked(fd) && strikes(MAP) == 1 ? MAP_FAILED \
           : real(a, n, prot, flags, fd, offset); \
  }
MAPS(mmap, off_t) MAPS(mmap64, off64_t)
