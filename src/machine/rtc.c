/*
 * The real-time clock and its CMOS memory (Motorola MC146818A, as wired in a PC).
 *
 * Time is counted as the chip's 32768 Hz divider counts it: guest time is a number of ticks since
 * 1970, a host clock plus an offset, so seconds are ticks / 2^15 and every periodic rate is a power
 * of two. Nothing runs while nobody asks: registers are computed when they are read, and the flags
 * of register C from what has passed since they were last computed. Only an enabled interrupt whose
 * flag is not up yet needs a timer, which lives on the main loop.
 *
 * While register B's SET bit or a stopped divider freezes the clock, the time registers hold what
 * the guest wrote; the offset is computed anew when it goes on.
 */
#include "machine/device_list.h"

#include "base/error.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/machine.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define RTC_PORT 0x70
#define RTC_IRQ  8
#define RTC_SIZE 128
#define RTC_HZ   32768

/* Registers, MC146818A figure 7; from 0x0e on it is memory, with a PC's usual meaning */
enum {
	RTC_SECONDS = 0x00,
	RTC_SECONDS_ALARM = 0x01,
	RTC_MINUTES = 0x02,
	RTC_MINUTES_ALARM = 0x03,
	RTC_HOURS = 0x04,
	RTC_HOURS_ALARM = 0x05,
	RTC_DAY_OF_WEEK = 0x06,
	RTC_DAY_OF_MONTH = 0x07,
	RTC_MONTH = 0x08,
	RTC_YEAR = 0x09,
	RTC_A = 0x0a,
	RTC_B = 0x0b,
	RTC_C = 0x0c,
	RTC_D = 0x0d,
	CMOS_EQUIPMENT = 0x14,
	CMOS_BASE_MEMORY = 0x15,      /* KiB */
	CMOS_EXTENDED_MEMORY = 0x17,  /* KiB above 1 MiB */
	CMOS_EXTENDED_MEMORY2 = 0x30, /* the same, as POST found it */
	RTC_CENTURY = 0x32,
	CMOS_MEMORY_16M = 0x34, /* 64 KiB units from 16 MiB to 4 GiB */
	CMOS_MEMORY_4G = 0x5b,  /* 64 KiB units from 4 GiB, three bytes */
	CMOS_CPUS = 0x5f,       /* number of CPUs less one */
};

#define A_UIP    0x80
#define A_DV     0x70
#define A_DV_32K 0x20
#define A_RS     0x0f
#define B_SET    0x80
#define B_DM     0x04
#define B_24H    0x02
#define D_VRT    0x80
/* Interrupt enables in B and flags in C share their bits */
#define RTC_IRQF        0x80
#define RTC_PERIODIC    0x40
#define RTC_ALARM       0x20
#define RTC_UPDATE      0x10
#define RTC_SQWE        0x08
#define RTC_SOURCES     (RTC_PERIODIC | RTC_ALARM | RTC_UPDATE)

#define HOURS_PM        0x80
#define ALARM_ANY       0xc0
#define EQUIPMENT_FPU   0x02
#define UIP_TICKS       8      /* 244 us before an update, table 5 */
#define FIRST_UPDATE    0x4000 /* half a second after the divider starts, p. 12 */
#define NEVER           INT64_MAX
#define SECONDS_PER_DAY 86400
#define DAYS_PER_400Y   146097
#define DAYS_TO_1970    719468 /* from 0000-03-01 */

struct rtc {
	struct device dev;
	struct region ports;
	struct irq_line irq;
	struct loop_timer *timer;
	struct loop_call rearm;
	clockid_t clock;
	bool stops; /* clock=vm: time stands still while the machine is paused */

	pthread_mutex_t lock; /* of what follows */
	int64_t offset;       /* guest ticks less the host clock's */
	int64_t seen;         /* guest ticks up to which C's flags are computed */
	int64_t armed;        /* guest ticks the timer is set to, or NEVER */
	int64_t paused_at;    /* host ticks */
	uint8_t index;
	uint8_t cmos[RTC_SIZE];
};

/* --- Calendar ---- */

struct date {
	int64_t year;
	unsigned month, day, hour, minute, second, weekday; /* month, day from 1; Sunday 0 */
};

/* Years begin in March here, so that a leap day is the last of its year. */
static int64_t days_of(int64_t year, unsigned month, unsigned day)
{
	int64_t y = month > 2 ? year : year - 1;
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	unsigned in_era = y - era * 400, m = (month + 9) % 12;
	unsigned day_of_year = (153 * m + 2) / 5 + day - 1;

	return era * DAYS_PER_400Y + in_era * 365 + in_era / 4 - in_era / 100 + day_of_year -
	       DAYS_TO_1970;
}

static int64_t seconds_of(const struct date *d)
{
	return days_of(d->year, d->month, d->day) * SECONDS_PER_DAY + d->hour * 3600 +
	       d->minute * 60 + d->second;
}

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

static struct date date_of(int64_t seconds)
{
	int64_t days = floor_div(seconds, SECONDS_PER_DAY), since = days + DAYS_TO_1970;
	unsigned rest = seconds - days * SECONDS_PER_DAY;
	int64_t era = floor_div(since, DAYS_PER_400Y);
	unsigned in_era = since - era * DAYS_PER_400Y;
	unsigned year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
	unsigned day_of_year = in_era - (365 * year + year / 4 - year / 100);
	unsigned m = (5 * day_of_year + 2) / 153;
	unsigned month = m < 10 ? m + 3 : m - 9;

	return (struct date){
		.year = era * 400 + year + (month <= 2),
		.month = month,
		.day = day_of_year - (153 * m + 2) / 5 + 1,
		.hour = rest / 3600,
		.minute = rest / 60 % 60,
		.second = rest % 60,
		.weekday = floor_div(days + 4, 7) * -7 + days + 4, /* 1970-01-01: a Thursday */
	};
}

/* --- Time ---- */

/* #syscalls clock_gettime */
static int64_t host_ticks(const struct rtc *s)
{
	struct timespec ts;

	clock_gettime(s->clock, &ts);
	return (int64_t)ts.tv_sec * RTC_HZ + (int64_t)ts.tv_nsec * RTC_HZ / 1000000000;
}

static int64_t guest_ticks(const struct rtc *s)
{
	return host_ticks(s) + s->offset;
}

static bool divider_runs(const struct rtc *s)
{
	return (s->cmos[RTC_A] & A_DV) <= A_DV_32K;
}

static bool clock_runs(const struct rtc *s)
{
	return divider_runs(s) && !(s->cmos[RTC_B] & B_SET);
}

static uint8_t encode(const struct rtc *s, unsigned value)
{
	return s->cmos[RTC_B] & B_DM ? value : value / 10 << 4 | value % 10;
}

static unsigned decode(const struct rtc *s, uint8_t value)
{
	return s->cmos[RTC_B] & B_DM ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hour(const struct rtc *s, unsigned hour)
{
	if (s->cmos[RTC_B] & B_24H)
		return encode(s, hour);
	return encode(s, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOURS_PM : 0);
}

static unsigned decode_hour(const struct rtc *s, uint8_t value)
{
	if (s->cmos[RTC_B] & B_24H)
		return decode(s, value);
	return decode(s, value & ~HOURS_PM) % 12 + (value & HOURS_PM ? 12 : 0);
}

/* Brings the time registers up to date. */
static void refresh(struct rtc *s)
{
	struct date d;

	if (!clock_runs(s))
		return;
	d = date_of(guest_ticks(s) >> 15);
	s->cmos[RTC_SECONDS] = encode(s, d.second);
	s->cmos[RTC_MINUTES] = encode(s, d.minute);
	s->cmos[RTC_HOURS] = encode_hour(s, d.hour);
	s->cmos[RTC_DAY_OF_WEEK] = encode(s, d.weekday + 1);
	s->cmos[RTC_DAY_OF_MONTH] = encode(s, d.day);
	s->cmos[RTC_MONTH] = encode(s, d.month);
	s->cmos[RTC_YEAR] = encode(s, d.year % 100);
	s->cmos[RTC_CENTURY] = encode(s, d.year / 100 % 100);
}

/* Takes the time registers for the time; fraction is that of the second. */
static void set_time(struct rtc *s, unsigned fraction)
{
	unsigned month = decode(s, s->cmos[RTC_MONTH]);
	struct date d = {
		.year = decode(s, s->cmos[RTC_CENTURY]) * 100 + decode(s, s->cmos[RTC_YEAR]),
		.month = MIN(MAX(month, 1u), 12u),
		.day = decode(s, s->cmos[RTC_DAY_OF_MONTH]),
		.hour = decode_hour(s, s->cmos[RTC_HOURS]),
		.minute = decode(s, s->cmos[RTC_MINUTES]),
		.second = decode(s, s->cmos[RTC_SECONDS]),
	};

	s->seen = seconds_of(&d) * RTC_HZ + fraction;
	s->offset = s->seen - host_ticks(s);
}

/* --- Interrupts ---- */

struct alarm {
	int hour, minute, second; /* -1: any */
};

static struct alarm read_alarm(const struct rtc *s)
{
	uint8_t hour = s->cmos[RTC_HOURS_ALARM], minute = s->cmos[RTC_MINUTES_ALARM],
		second = s->cmos[RTC_SECONDS_ALARM];

	return (struct alarm){
		.hour = hour >= ALARM_ANY ? -1 : (int)decode_hour(s, hour),
		.minute = minute >= ALARM_ANY ? -1 : (int)decode(s, minute),
		.second = second >= ALARM_ANY ? -1 : (int)decode(s, second),
	};
}

/* The first second after `after` the alarm matches, or NEVER. Goes over hours, then minutes, then
 * seconds. */
static int64_t next_alarm(const struct rtc *s, int64_t after)
{
	struct alarm alarm = read_alarm(s);
	int64_t t = after + 1;

	while (t <= after + SECONDS_PER_DAY + 3600) {
		unsigned of_day = t - floor_div(t, SECONDS_PER_DAY) * SECONDS_PER_DAY;
		int hour = of_day / 3600, minute = of_day / 60 % 60, second = of_day % 60;

		if (alarm.hour >= 0 && alarm.hour != hour)
			t += 3600 - of_day % 3600;
		else if (alarm.minute >= 0 && alarm.minute != minute)
			t += 60 - second;
		else if (alarm.second >= 0 && alarm.second != second)
			t++;
		else
			return t;
	}
	return NEVER;
}

/* Table 5: rates 1 and 2 are those of 8 and 9. log2 of ticks, or -1 for none. */
static int period_shift(const struct rtc *s)
{
	unsigned rate = s->cmos[RTC_A] & A_RS;

	if (!rate || !divider_runs(s))
		return -1;
	return rate <= 2 ? rate + 6 : rate - 1;
}

/* Raises the flags of what happened since they were last looked at, and drives the line. */
static void update_flags(struct rtc *s)
{
	int64_t now = guest_ticks(s), then = MIN(s->seen, now);
	int shift = period_shift(s);

	if (shift >= 0 && now >> shift != then >> shift)
		s->cmos[RTC_C] |= RTC_PERIODIC;
	if (clock_runs(s) && now >> 15 != then >> 15) {
		s->cmos[RTC_C] |= RTC_UPDATE;
		if (next_alarm(s, then >> 15) <= now >> 15)
			s->cmos[RTC_C] |= RTC_ALARM;
	}
	s->seen = now;
	s->cmos[RTC_C] &= ~RTC_IRQF;
	if (s->cmos[RTC_C] & s->cmos[RTC_B] & RTC_SOURCES)
		s->cmos[RTC_C] |= RTC_IRQF;
	irq_set(&s->irq, s->cmos[RTC_C] & RTC_IRQF);
}

/* When the next flag rises that is enabled to interrupt; none while the line is up already. */
static int64_t next_event(const struct rtc *s)
{
	uint8_t wanted = s->cmos[RTC_B] & RTC_SOURCES;
	int shift = period_shift(s);
	int64_t next = NEVER, second = s->seen >> 15;

	if (s->cmos[RTC_C] & RTC_IRQF)
		return NEVER;
	if (wanted & RTC_PERIODIC && shift >= 0)
		next = ((s->seen >> shift) + 1) << shift;
	if (!clock_runs(s))
		return next;
	if (wanted & RTC_UPDATE)
		next = MIN(next, (second + 1) << 15);
	if (wanted & RTC_ALARM) {
		int64_t alarm = next_alarm(s, second);

		if (alarm != NEVER)
			next = MIN(next, alarm << 15);
	}
	return next;
}

/* On the main loop, with the lock held. */
static void arm(struct rtc *s)
{
	int64_t wait;

	s->armed = next_event(s);
	if (s->armed == NEVER) {
		loop_timer_cancel(s->timer);
		return;
	}
	wait = MAX(s->armed - guest_ticks(s), 0);
	loop_timer_set(s->timer, now_ns() + wait * 1000000000 / RTC_HZ + 1);
}

static void on_main_loop(void *opaque)
{
	struct rtc *s = opaque;

	pthread_mutex_lock(&s->lock);
	update_flags(s);
	arm(s);
	pthread_mutex_unlock(&s->lock);
}

/* --- Registers ---- */

static uint8_t read_register(struct rtc *s, unsigned reg)
{
	uint8_t value;

	switch (reg) {
	case RTC_A:
		if (clock_runs(s) && (guest_ticks(s) & (RTC_HZ - 1)) >= RTC_HZ - UIP_TICKS)
			return s->cmos[RTC_A] | A_UIP;
		return s->cmos[RTC_A];
	case RTC_C:
		update_flags(s);
		value = s->cmos[RTC_C];
		s->cmos[RTC_C] = 0;
		irq_set(&s->irq, false);
		return value;
	default: refresh(s); return s->cmos[reg];
	}
}

/* Registers A and B: what freezes the clock and what lets it go on. */
static void write_control(struct rtc *s, unsigned reg, uint8_t value)
{
	bool ran = clock_runs(s), divided = divider_runs(s);
	unsigned fraction = guest_ticks(s) & (RTC_HZ - 1);

	refresh(s);
	update_flags(s);
	if (reg == RTC_A) {
		s->cmos[RTC_A] = value & ~A_UIP;
	} else {
		if (value & B_SET)
			value &= ~RTC_UPDATE;
		s->cmos[RTC_B] = value;
	}
	if (!ran && clock_runs(s))
		set_time(s, divided ? fraction : FIRST_UPDATE);
	update_flags(s);
}

static void write_register(struct rtc *s, unsigned reg, uint8_t value)
{
	switch (reg) {
	case RTC_A:
	case RTC_B: write_control(s, reg, value); break;
	case RTC_C:
	case RTC_D: break; /* read-only */
	case RTC_SECONDS:
	case RTC_MINUTES:
	case RTC_HOURS:
	case RTC_DAY_OF_WEEK:
	case RTC_DAY_OF_MONTH:
	case RTC_MONTH:
	case RTC_YEAR:
	case RTC_CENTURY:
		refresh(s);
		s->cmos[reg] = value;
		if (clock_runs(s))
			set_time(s, guest_ticks(s) & (RTC_HZ - 1));
		break;
	default:
		update_flags(s);
		s->cmos[reg] = value;
		break;
	}
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
	struct rtc *s = opaque;
	bool changed;
	uint8_t value;

	if (offset == 0)
		return 0xff; /* the index is write-only */
	pthread_mutex_lock(&s->lock);
	value = read_register(s, s->index);
	changed = next_event(s) != s->armed;
	pthread_mutex_unlock(&s->lock);
	if (changed)
		loop_post(s->dev.machine->main_loop, &s->rearm);
	return value;
}

static void rtc_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct rtc *s = opaque;
	bool changed;

	pthread_mutex_lock(&s->lock);
	if (offset == 0)
		s->index = value & (RTC_SIZE - 1); /* bit 7 masks NMI, of which there is none */
	else
		write_register(s, s->index, value);
	changed = next_event(s) != s->armed;
	pthread_mutex_unlock(&s->lock);
	if (changed)
		loop_post(s->dev.machine->main_loop, &s->rearm);
}

static const struct region_ops rtc_ops = { rtc_read, rtc_write, 1 };

/* --- Life ---- */

/* The RESET pin (MC146818A p. 9): time and memory stay, interrupts go. */
static void rtc_reset(struct device *dev)
{
	struct rtc *s = container_of(dev, struct rtc, dev);

	pthread_mutex_lock(&s->lock);
	s->cmos[RTC_B] &= ~(RTC_SOURCES | RTC_SQWE);
	s->cmos[RTC_C] = 0;
	update_flags(s);
	arm(s);
	pthread_mutex_unlock(&s->lock);
}

static void rtc_pause(struct device *dev)
{
	struct rtc *s = container_of(dev, struct rtc, dev);

	s->paused_at = host_ticks(s);
}

static void rtc_resume(struct device *dev)
{
	struct rtc *s = container_of(dev, struct rtc, dev);

	pthread_mutex_lock(&s->lock);
	if (s->stops)
		s->offset -= host_ticks(s) - s->paused_at;
	update_flags(s);
	arm(s);
	pthread_mutex_unlock(&s->lock);
}

static void put_le(uint8_t *to, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		to[i] = value >> (8 * i);
}

/* What firmware without another source takes for the size of the machine. */
static void describe_machine(struct rtc *s, const struct machine *machine)
{
	uint64_t low = machine->mem.low_size;
	uint64_t extended = low > MIB ? MIN((low - MIB) / KIB, 0xffff) : 0;

	put_le(&s->cmos[CMOS_BASE_MEMORY], 640, 2);
	put_le(&s->cmos[CMOS_EXTENDED_MEMORY], extended, 2);
	put_le(&s->cmos[CMOS_EXTENDED_MEMORY2], extended, 2);
	if (low > 16 * MIB)
		put_le(&s->cmos[CMOS_MEMORY_16M], MIN((low - 16 * MIB) / (64 * KIB), 0xffff), 2);
	put_le(&s->cmos[CMOS_MEMORY_4G], machine->mem.high_size / (64 * KIB), 3);
	s->cmos[CMOS_CPUS] = machine->n_vcpus ? machine->n_vcpus - 1 : 0;
	s->cmos[CMOS_EQUIPMENT] = EQUIPMENT_FPU;
}

/* "2006-06-17T16:01:21" or "2006-06-17" as seconds since 1970; false when it is neither. */
static bool parse_date(const char *text, int64_t *seconds)
{
	struct date d = { 0 };
	int end = 0, n;
	unsigned year;

	n = sscanf(text, "%4u-%2u-%2uT%2u:%2u:%2u%n", &year, &d.month, &d.day, &d.hour, &d.minute,
		   &d.second, &end);
	if (n == 3)
		sscanf(text, "%*4u-%*2u-%*2u%n", &end);
	else if (n != 6)
		return false;
	if (text[end] || d.month < 1 || d.month > 12 || d.day < 1 || d.day > 31 || d.hour > 23 ||
	    d.minute > 59 || d.second > 59)
		return false;
	d.year = year;
	*seconds = seconds_of(&d);
	return true;
}

/* What the guest's clock shows at start, in seconds since 1970. */
static int start_time(const char *base, int64_t *seconds, struct error **err)
{
	time_t now = time(NULL);
	struct tm tm;

	*seconds = now;
	if (strcmp(base, "utc") == 0)
		return 0;
	if (strcmp(base, "localtime") == 0) {
		localtime_r(&now, &tm);
		*seconds += tm.tm_gmtoff;
		return 0;
	}
	if (parse_date(base, seconds))
		return 0;
	error_set(
		err,
		"base '%s' is no time; there are: utc, localtime, 2006-06-17T16:01:21, 2006-06-17",
		base);
	return -1;
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *s = container_of(dev, struct rtc, dev);

	bus_unmap(&s->ports);
	loop_timer_free(s->timer);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void set_clock(struct rtc *s, const char *clock, int64_t start)
{
	struct timespec ts;

	s->clock = strcmp(clock, "host") == 0 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
	s->stops = strcmp(clock, "vm") == 0;
	clock_gettime(CLOCK_REALTIME, &ts);
	s->seen = start * RTC_HZ + (int64_t)ts.tv_nsec * RTC_HZ / 1000000000;
	s->offset = s->seen - host_ticks(s);
}

static int rtc_create(struct machine *machine, const struct props *props, struct device **device,
		      struct error **err)
{
	struct rtc *s;
	int64_t start;

	if (start_time(props_str(props, "base"), &start, err) < 0)
		return -1;
	s = xcalloc(1, sizeof(*s));
	s->dev.machine = machine;
	s->armed = NEVER;
	s->ports = (struct region){ "rtc", 2, &rtc_ops, s };
	s->rearm = (struct loop_call){ on_main_loop, s };
	s->timer = loop_timer_new(machine->main_loop, on_main_loop, s);
	pthread_mutex_init(&s->lock, NULL);
	irq_line_init(&s->irq, &machine->irqs, RTC_IRQ);
	set_clock(s, props_str(props, "clock"), start);
	s->cmos[RTC_A] = A_DV_32K | 6; /* 1024 Hz, the usual PC rate */
	s->cmos[RTC_B] = B_24H;
	s->cmos[RTC_D] = D_VRT;
	describe_machine(s, machine);
	if (bus_map(machine->io, &s->ports, RTC_PORT, err) < 0) {
		rtc_destroy(&s->dev);
		return -1;
	}
	*device = &s->dev;
	return 0;
}

static const char *const clocks[] = { "host", "rt", "vm", NULL };
static const char *const driftfixes[] = { "none", NULL };
static const struct prop rtc_props[] = {
	{ "base", PROP_STRING, "utc", "utc, localtime, or a date like 2006-06-17T16:01:21" },
	{ "clock", PROP_ENUM, "host",
	  "host: follows the host's; rt: from start on by itself; "
	  "vm: stands still while paused",
	  .choices = clocks },
	{ "driftfix", PROP_ENUM, "none", "lost periodic interrupts are not made up for",
	  .choices = driftfixes },
	{},
};

const struct device_class mc146818rtc_class = {
	.name = "mc146818rtc",
	.bus = "ISA",
	.desc = "real-time clock and CMOS memory",
	.props = rtc_props,
	.create = rtc_create,
	.reset = rtc_reset,
	.pause = rtc_pause,
	.resume = rtc_resume,
	.destroy = rtc_destroy,
};
