/* Preloaded into a server (LD_PRELOAD): every fsync and fdatasync takes SLOW_SYNCS_MS longer. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_first(void) {
  const char *ms = getenv("SLOW_SYNCS_MS");
  long all = ms == NULL ? 0 : atol(ms);
  struct timespec span = {all / 1000, (all % 1000) * 1000000L};
  while (nanosleep(&span, &span) != 0) {}
}

int fsync(int fd) {
  wait_first();
  return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  wait_first();
  return syscall(SYS_fdatasync, fd);
}
