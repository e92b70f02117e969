/*
 * A disk that forgets what was not synced when the power fails, to be preloaded into a process (LD_PRELOAD):
 * POWER_UNDO=folder gets one file for each file of the database (named chat.db..., its -shm aside), by its inode. It
 * begins with the path (512 bytes) and holds what every write since the last completed sync has replaced: offset, length,
 * former size (eight bytes each), and the bytes. After a kill -9, who takes these back, the last one first, has the
 * file as a disk has it that lost its cache. A sync takes away what was written before it began.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 512

struct entry {
  int64_t offset, length, former_size;
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static int is_database(const char *path) {
  const char *base = strrchr(path, '/');
  size_t length = strlen(path);
  return base && strncmp(base + 1, "chat.db", 7) == 0 && strcmp(path + length - 4, "-shm") != 0;
}

static void undo_name(char *name, size_t bytes, ino_t inode) {
  snprintf(name, bytes, "%s/%llu", getenv("POWER_UNDO"), (unsigned long long)inode);
}

/* The undo file of a file of the database, its path written at its beginning; -1 for any other file. */
static int open_undo(int fd, off_t *size) {
  char link[64], path[PATH_BYTES] = {0}, name[PATH_BYTES];
  struct stat about;
  if (!getenv("POWER_UNDO")) return -1;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (readlink(link, path, sizeof path - 1) <= 0 || !is_database(path) || fstat(fd, &about) != 0) return -1;
  undo_name(name, sizeof name, about.st_ino);
  int undo = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (undo < 0) abort();
  /* Each time: the file may have another name by now. */
  if (lseek(undo, 0, SEEK_SET) != 0 || write(undo, path, sizeof path) != sizeof path) abort();
  *size = about.st_size;
  return undo;
}

/* Remembers what stands in the file from there on; whoever calls holds the turn until the change is made. */
static void remember(int undo, int fd, off_t offset, size_t length, off_t size) {
  off_t there = offset >= size ? 0 : size - offset < (off_t)length ? size - offset : (off_t)length;
  struct entry *entry = malloc(sizeof *entry + there);
  if (!entry) abort();
  *entry = (struct entry){offset, there, size};
  if (there > 0 && pread(fd, entry + 1, there, offset) != there) abort();
  lseek(undo, 0, SEEK_END);
  if (write(undo, entry, sizeof *entry + there) != (ssize_t)(sizeof *entry + there)) abort();
  free(entry);
}

typedef ssize_t (*pwrite_at)(int, const void *, size_t, off_t);
static ssize_t remembered_write(int fd, const void *data, size_t bytes, off_t at, const char *name) {
  pwrite_at real = (pwrite_at)dlsym(RTLD_NEXT, name);
  pthread_mutex_lock(&turn);
  off_t size;
  int undo = open_undo(fd, &size);
  if (undo >= 0) remember(undo, fd, at, bytes, size);
  ssize_t written = real(fd, data, bytes, at);
  if (undo >= 0) close(undo);
  pthread_mutex_unlock(&turn);
  return written;
}
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) { return remembered_write(fd, data, bytes, at, "pwrite"); }
ssize_t pwrite64(int fd, const void *data, size_t bytes, off_t at) { return remembered_write(fd, data, bytes, at, "pwrite64"); }

typedef int (*truncate_to)(int, off_t);
static int remembered_truncate(int fd, off_t bytes, const char *name) {
  truncate_to real = (truncate_to)dlsym(RTLD_NEXT, name);
  pthread_mutex_lock(&turn);
  off_t size;
  int undo = open_undo(fd, &size);
  if (undo >= 0) remember(undo, fd, bytes, size > bytes ? size - bytes : 0, size);
  int result = real(fd, bytes);
  if (undo >= 0) close(undo);
  pthread_mutex_unlock(&turn);
  return result;
}
int ftruncate(int fd, off_t bytes) { return remembered_truncate(fd, bytes, "ftruncate"); }
int ftruncate64(int fd, off_t bytes) { return remembered_truncate(fd, bytes, "ftruncate64"); }

/* What was written before this began is safe once it has ended well. */
static int remembered_sync(int fd, const char *name) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  pthread_mutex_lock(&turn);
  off_t size;
  int undo = open_undo(fd, &size);
  off_t before = undo < 0 ? 0 : lseek(undo, 0, SEEK_END);
  pthread_mutex_unlock(&turn);
  int result = real(fd);
  if (undo < 0) return result;
  pthread_mutex_lock(&turn);
  off_t after = lseek(undo, 0, SEEK_END);
  /* Another sync may have cleared it meanwhile: then what is there came later, and stays. */
  if (result == 0 && after >= before) {
    size_t rest = after - before;
    char *later = malloc(rest + 1);
    if (!later || pread(undo, later, rest, before) != (ssize_t)rest) abort();
    int (*cut)(int, off_t) = (int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate");
    if (cut(undo, PATH_BYTES) != 0 || lseek(undo, PATH_BYTES, SEEK_SET) < 0) abort();
    if (rest > 0 && write(undo, later, rest) != (ssize_t)rest) abort();
    free(later);
  }
  close(undo);
  pthread_mutex_unlock(&turn);
  return result;
}
int fsync(int fd) { return remembered_sync(fd, "fsync"); }
int fdatasync(int fd) { return remembered_sync(fd, "fdatasync"); }

/* A file that is gone has nothing to take back, and its inode will be another's. */
int unlink(const char *path) {
  struct stat about;
  if (getenv("POWER_UNDO") && is_database(path) && stat(path, &about) == 0) {
    char name[PATH_BYTES];
    undo_name(name, sizeof name, about.st_ino);
    ((int (*)(const char *))dlsym(RTLD_NEXT, "unlink"))(name);
  }
  return ((int (*)(const char *))dlsym(RTLD_NEXT, "unlink"))(path);
}
