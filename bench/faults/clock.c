/* A wall clock that another process can set apart, by LD_PRELOAD: what CLOCK_REALTIME says is moved
 * by the 64-bit nanoseconds in a shared file. Monotonic clocks stay what they are.
 *
 * The file is named by FAULTS_CLOCK when the process starts, or later by faults_attach_clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { NANOSECONDS = 1000000000 };

static const volatile int64_t* moved_by_ns;
static int (*real_clock_gettime)(clockid_t, struct timespec*);

int faults_attach_clock(const char* path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  void* page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (page == MAP_FAILED) return -1;
  moved_by_ns = page;
  return 0;
}

__attribute__((constructor)) static void begin(void) {
  real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  const char* path = getenv("FAULTS_CLOCK");
  if (path && faults_attach_clock(path)) _exit(97);
}

int clock_gettime(clockid_t clock, struct timespec* now) {
  if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real_clock_gettime(clock, now);
  if (failed || !moved_by_ns || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
    return failed;
  int64_t moved = now->tv_sec * (int64_t)NANOSECONDS + now->tv_nsec + *moved_by_ns;
  now->tv_sec = moved / NANOSECONDS;
  now->tv_nsec = moved % NANOSECONDS;
  return 0;
}

int gettimeofday(struct timeval* restrict now, void* restrict zone) {
  (void)zone;
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* result) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (result) *result = precise.tv_sec;
  return precise.tv_sec;
}
