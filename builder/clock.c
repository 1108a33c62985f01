/* Preloaded into programs of `build check`: the wall clock that they read is OFFSET seconds ahead, no other clock is.
 *
 * Plain system calls and nothing else: no allocation, no look-up of symbols, no headers. A library that looks up the real
 * functions when it is first asked (libfaketime does) deadlocks in programs whose allocator reads the clock while it is
 * being set up, as jemalloc does. x86-64 Linux; no libc of any version is linked in.
 */
struct timespec {
	long seconds, nanoseconds;
};

struct timeval {
	long seconds, microseconds;
};

enum { SYS_clock_gettime = 228 };
enum { REALTIME = 0, REALTIME_COARSE = 5, REALTIME_ALARM = 8, TAI = 11 };
enum { TIME_UTC = 1 };

extern int *__errno_location(void);

static long ask(int clock, struct timespec *now)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "0"((long)SYS_clock_gettime), "D"((long)clock), "S"(now)
			 : "rcx", "r11", "memory");
	if (result == 0 && (clock == REALTIME || clock == REALTIME_COARSE || clock == REALTIME_ALARM || clock == TAI))
		now->seconds += OFFSET;
	return result;
}

int clock_gettime(int clock, struct timespec *now)
{
	long result = ask(clock, now);

	if (result == 0)
		return 0;
	*__errno_location() = (int)-result;
	return -1;
}

long time(long *seconds)
{
	struct timespec now;

	ask(REALTIME_COARSE, &now); /* the kernel's tick: what time(2) gives */
	if (seconds)
		*seconds = now.seconds;
	return now.seconds;
}

int gettimeofday(struct timeval *now, void *zone)
{
	struct timespec precise;

	(void)zone; /* obsolete, and always UTC here */
	ask(REALTIME, &precise);
	if (now) {
		now->seconds = precise.seconds;
		now->microseconds = precise.nanoseconds / 1000;
	}
	return 0;
}

int timespec_get(struct timespec *now, int base)
{
	return base == TIME_UTC && ask(REALTIME, now) == 0 ? base : 0;
}
