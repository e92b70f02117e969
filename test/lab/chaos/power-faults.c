/*
 * A disk as Linux has it, to be preloaded into a process (LD_PRELOAD, before disk-faults.c, so that it hears what that
 * refuses). POWER_DISK=folder gets, for each file of the database (its name begins with chat.db; -shm aside), by its inode
 * and the moment of its making, and outliving the process:
 *   KEY.image  what is on the disk for certain: the file as of the last good sync, in content and size
 *   KEY.lost   the pages that a failed sync took for written, as they were then, each in its place
 *   KEY.state  when the newest sync that counts began, the file's time of change after what was seen last, and one byte for
 *              each page: 1 where KEY.lost has it
 *   names      one line (key, name) for each file of the database that the folder had at its own last good sync
 *
 * A sync compares the file with its image, so that it sees every writer, also one that makes system calls by itself. What
 * differs is unsynced. A good sync puts it into the image. A failed sync makes it count as clean: it stays readable, and no
 * later sync writes it until the page is written again. Which page is written is seen where it is done through the C
 * library, as SQLite does it. Where the file's time of change says that there were writes by bare system calls, and no page has
 * other bytes than before, the same bytes were written again: all that was lost of the file counts as unsynced once more.
 * Memory maps are not looked at. machine.ts makes the power fail.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define PATH_BYTES 512
#define PAGE 4096
#define STATE_BYTES 16
#define CHANGED_AT 8
/* A file of so many bytes is compared whole at each sync; of a larger one only the pages that this process has written,
   unless its time of change says that there were other writes. */
#define SMALL_BYTES (64 * PAGE)
#define FILES_MAX 64

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void put(int fd, const void *data, size_t bytes, off_t at) {
  static ssize_t (*real)(int, const void *, size_t, off_t);
  if (!real) real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
  if (real(fd, data, bytes, at) != (ssize_t)bytes) abort();
}

static void cut(int fd, off_t bytes) {
  static int (*real)(int, off_t);
  if (!real) real = (int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate");
  if (real(fd, bytes) != 0) abort();
}

/* One at a time, over all processes on this disk. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static int turn_file = -1;
static void take_turn(void) {
  pthread_mutex_lock(&turn);
  if (turn_file < 0) {
    char name[PATH_BYTES];
    snprintf(name, sizeof name, "%s/turn", getenv("POWER_DISK"));
    turn_file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }
  if (turn_file < 0 || flock(turn_file, LOCK_EX) != 0) abort();
}
static void end_turn(void) {
  if (flock(turn_file, LOCK_UN) != 0) abort();
  pthread_mutex_unlock(&turn);
}

static int is_database(const char *path) {
  const char *base = strrchr(path, '/');
  size_t length = strlen(path);
  return base && strncmp(base + 1, "chat.db", 7) == 0 && strcmp(path + length - 4, "-shm") != 0;
}

static int path_of(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = getenv("POWER_DISK") ? readlink(link, path, PATH_BYTES - 1) : -1;
  if (length <= 0) return 0;
  path[length] = 0;
  return 1;
}

/* An inode's number is given to another file when its file is gone: the moment of its making tells the two apart. */
static void key_of(const struct statx *about, char *key, size_t bytes) {
  snprintf(key, bytes, "%llu-%lld.%09u", (unsigned long long)about->stx_ino, (long long)about->stx_btime.tv_sec,
           about->stx_btime.tv_nsec);
}

/* What this process knows of a file: when it last wrote each page, and whether it has compared all of them. */
struct known {
  char key[64];
  int compared;
  int64_t *written;
  size_t pages;
};
static struct known files[FILES_MAX];

/* Of a file that was forgotten for a newer one nothing is known: it is compared whole. */
static struct known *known_as(const char *key) {
  static size_t next = 0;
  for (struct known *file = files; file < files + FILES_MAX; file++)
    if (strcmp(file->key, key) == 0) return file;
  struct known *file = &files[next++ % FILES_MAX];
  free(file->written);
  *file = (struct known){0};
  strcpy(file->key, key);
  return file;
}

static void stamp(struct known *known, size_t page, int64_t moment) {
  if (page >= known->pages) {
    size_t pages = (page + 1) * 2;
    known->written = realloc(known->written, pages * sizeof *known->written);
    if (!known->written) abort();
    memset(known->written + known->pages, 0, (pages - known->pages) * sizeof *known->written);
    known->pages = pages;
  }
  if (known->written[page] < moment) known->written[page] = moment;
}

static int64_t changed_at(const struct timespec *time) { return time->tv_sec * 1000000000LL + time->tv_nsec; }

/* A file of the database, and what is known of it; open_disk's caller holds the turn. */
struct disk {
  struct known *known;
  off_t size;
  int64_t changed;
  int image, lost, state;
};

static int open_disk(int fd, struct disk *disk) {
  char path[PATH_BYTES], key[64], name[PATH_BYTES];
  struct statx about;
  if (!path_of(fd, path) || !is_database(path)) return 0;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &about) != 0) abort();
  key_of(&about, key, sizeof key);
  disk->known = known_as(key);
  disk->size = about.stx_size;
  disk->changed = changed_at(&(struct timespec){about.stx_mtime.tv_sec, about.stx_mtime.tv_nsec});
  int *parts[] = {&disk->image, &disk->lost, &disk->state};
  const char *suffixes[] = {"image", "lost", "state"};
  for (int part = 0; part < 3; part++) {
    snprintf(name, sizeof name, "%s/%s.%s", getenv("POWER_DISK"), key, suffixes[part]);
    *parts[part] = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*parts[part] < 0) abort();
  }
  return 1;
}

static void close_disk(struct disk *disk) {
  close(disk->image);
  close(disk->lost);
  close(disk->state);
}

/* Bytes that are not there are zeros. */
static void page_of(int fd, char *page, size_t number) {
  ssize_t there = pread(fd, page, PAGE, (off_t)number * PAGE);
  if (there < 0 && errno == EBADF) {
    /* Open for writing only, as none of SQLite's own files is: closing a descriptor of those would drop its locks. */
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int readable = open(link, O_RDONLY | O_CLOEXEC);
    there = pread(readable, page, PAGE, (off_t)number * PAGE);
    close(readable);
  }
  if (there < 0) abort();
  memset(page + there, 0, PAGE - there);
}

static int is_lost(const struct disk *disk, size_t page) {
  char mark = 0;
  return pread(disk->state, &mark, 1, STATE_BYTES + page) == 1 && mark;
}
static int64_t seen_change(const struct disk *disk) {
  int64_t seen = 0;
  if (pread(disk->state, &seen, 8, CHANGED_AT) < 0) abort();
  return seen;
}
static void mark(const struct disk *disk, size_t page, char lost) { put(disk->state, &lost, 1, STATE_BYTES + page); }

/* This process changed the file. An unseen change before that stays to be noticed by the next sync. */
static void saw_change(const struct disk *disk, int64_t changed_before) {
  if (seen_change(disk) == changed_before) put(disk->state, &disk->changed, 8, CHANGED_AT);
}

/* This process wrote these bytes: whatever they are, the disk does not have them before the next good sync. */
static void wrote(int fd, off_t at, size_t bytes, int64_t changed_before) {
  struct disk disk;
  if (!open_disk(fd, &disk)) return;
  for (size_t page = at / PAGE; page < (at + bytes + PAGE - 1) / PAGE; page++) {
    stamp(disk.known, page, now());
    if (is_lost(&disk, page)) mark(&disk, page, 0);
  }
  saw_change(&disk, changed_before);
  close_disk(&disk);
}

static void truncated(int fd, int64_t changed_before) {
  struct disk disk;
  if (!open_disk(fd, &disk)) return;
  saw_change(&disk, changed_before);
  close_disk(&disk);
}

/* What a sync would write, as it is when the sync begins. */
struct unsynced {
  struct disk disk;
  int64_t began;
  size_t count, room;
  size_t *numbers;
  char *pages;
};

static void look_at(struct unsynced *found, int fd, size_t number) {
  char page[PAGE], other[PAGE];
  page_of(fd, page, number);
  page_of(found->disk.image, other, number);
  if (memcmp(page, other, PAGE) == 0) return;
  if (is_lost(&found->disk, number)) {
    page_of(found->disk.lost, other, number);
    if (memcmp(page, other, PAGE) == 0) return;
  }
  if (found->count == found->room) {
    found->room = found->room ? found->room * 2 : 16;
    found->numbers = realloc(found->numbers, found->room * sizeof *found->numbers);
    found->pages = realloc(found->pages, found->room * PAGE);
    if (!found->numbers || !found->pages) abort();
  }
  stamp(found->disk.known, number, found->began - 1);
  found->numbers[found->count] = number;
  memcpy(found->pages + PAGE * found->count++, page, PAGE);
}

static int look(struct unsynced *found, int fd) {
  memset(found, 0, sizeof *found);
  if (!open_disk(fd, &found->disk)) return 0;
  found->began = now();
  struct known *known = found->disk.known;
  int64_t applied = 0;
  if (pread(found->disk.state, &applied, 8, 0) < 0) abort();
  size_t pages = (found->disk.size + PAGE - 1) / PAGE;
  int unseen = seen_change(&found->disk) != found->disk.changed;
  int whole = found->disk.size <= SMALL_BYTES || unseen || !known->compared;
  for (size_t page = 0; page < pages; page++)
    if (whole || (page < known->pages && known->written[page] > applied)) look_at(found, fd, page);
  if (unseen && found->count == 0)
    for (size_t page = 0; page < pages; page++)
      if (is_lost(&found->disk, page)) {
        mark(&found->disk, page, 0);
        look_at(found, fd, page);
      }
  known->compared = 1;
  put(found->disk.state, &found->disk.changed, 8, CHANGED_AT);
  return 1;
}

static void settle(struct unsynced *found, int good) {
  struct disk *disk = &found->disk;
  int64_t applied = 0;
  if (pread(disk->state, &applied, 8, 0) < 0) abort();
  /* A sync that began later has ended first: it had all of this, and says what became of it. */
  if (applied > found->began) return;
  if (good) cut(disk->image, disk->size);
  for (size_t n = 0; n < found->count; n++) {
    size_t number = found->numbers[n];
    off_t at = (off_t)number * PAGE;
    size_t bytes = disk->size - at < PAGE ? disk->size - at : PAGE;
    put(good ? disk->image : disk->lost, found->pages + PAGE * n, bytes, at);
    mark(disk, number, !good);
  }
  if (good) put(disk->state, &found->began, 8, 0);
}

/* A sync of the database's folder makes the names in it durable. POWER_DISK is a folder in it. */
static void settle_names(int fd) {
  const char *keep = getenv("POWER_DISK");
  char path[PATH_BYTES], name[PATH_BYTES], key[64];
  struct statx about;
  if (!path_of(fd, path)) return;
  size_t length = strlen(path);
  if (strncmp(keep, path, length) != 0 || keep[length] != '/' || strchr(keep + length + 1, '/')) return;
  take_turn();
  snprintf(name, sizeof name, "%s/names", keep);
  FILE *names = fopen(name, "we");
  DIR *folder = opendir(path);
  if (!names || !folder) abort();
  for (struct dirent *entry; (entry = readdir(folder));) {
    snprintf(name, sizeof name, "/%s", entry->d_name);
    if (!is_database(name)) continue;
    if (statx(dirfd(folder), entry->d_name, 0, STATX_BASIC_STATS | STATX_BTIME, &about) != 0) continue;
    key_of(&about, key, sizeof key);
    fprintf(names, "%s %s\n", key, entry->d_name);
  }
  closedir(folder);
  fclose(names);
  end_turn();
}

static int modelled_sync(int fd, const char *name) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (!getenv("POWER_DISK")) return real(fd);
  struct unsynced found;
  take_turn();
  int counts = look(&found, fd);
  end_turn();
  int result = real(fd), number = errno;
  if (!counts) {
    if (result == 0) settle_names(fd);
    errno = number;
    return result;
  }
  take_turn();
  settle(&found, result == 0);
  end_turn();
  close_disk(&found.disk);
  free(found.numbers);
  free(found.pages);
  errno = number;
  return result;
}
int fsync(int fd) { return modelled_sync(fd, "fsync"); }
int fdatasync(int fd) { return modelled_sync(fd, "fdatasync"); }

typedef ssize_t (*pwrite_at)(int, const void *, size_t, off_t);
static ssize_t modelled_write(int fd, const void *data, size_t bytes, off_t at, const char *name) {
  pwrite_at real = (pwrite_at)dlsym(RTLD_NEXT, name);
  if (!getenv("POWER_DISK")) return real(fd, data, bytes, at);
  take_turn();
  struct stat before = {0};
  fstat(fd, &before);
  ssize_t written = real(fd, data, bytes, at);
  int number = errno;
  if (written > 0) wrote(fd, at, written, changed_at(&before.st_mtim));
  end_turn();
  errno = number;
  return written;
}
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) { return modelled_write(fd, data, bytes, at, "pwrite"); }
ssize_t pwrite64(int fd, const void *data, size_t bytes, off_t at) { return modelled_write(fd, data, bytes, at, "pwrite64"); }

/* A truncation is seen at the next sync, by the size; here only that it was no writer of bytes. */
static int modelled_truncate(int fd, off_t bytes, const char *name) {
  int (*real)(int, off_t) = (int (*)(int, off_t))dlsym(RTLD_NEXT, name);
  if (!getenv("POWER_DISK")) return real(fd, bytes);
  take_turn();
  struct stat before = {0};
  fstat(fd, &before);
  int result = real(fd, bytes), number = errno;
  if (result == 0) truncated(fd, changed_at(&before.st_mtim));
  end_turn();
  errno = number;
  return result;
}
int ftruncate(int fd, off_t bytes) { return modelled_truncate(fd, bytes, "ftruncate"); }
int ftruncate64(int fd, off_t bytes) { return modelled_truncate(fd, bytes, "ftruncate64"); }
