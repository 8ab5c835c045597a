/*
 * Where vCPUs' threads meet interrupts: see vcpu_irq.h.
 *
 * A thread is outside, in the guest, or asleep, and says so in `where`, which is also the futex it
 * sleeps on. It says where it goes before it looks a last time for what may have come; who brings
 * something stores it before he looks where the thread is. So one of them always sees the other,
 * and a vCPU that is outside, about to look anyway, is left alone.
 *
 * The local APIC's timer: asleep, its deadline is how long the thread sleeps. In the guest an alarm
 * of the guest's clock gets it out. The alarm is not moved when the deadline moves away: guests
 * that program the timer anew at each tick cost no system call for it.
 */
#include "machine/vcpu_irq.h"

#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "hav.h"
#include "machine/irqchip.h"
#include "machine/lapic.h"
#include "machine/vclock.h"
#include "machine/vcpu.h"
#include "x86/registers.h"

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#define NS       UINT64_C(1000000000)
#define CR0_KEPT (CR0_CD | CR0_NW) /* by INIT: Intel SDM vol. 3 table 9-1 */

enum { OUTSIDE, IN_GUEST, ASLEEP };

/* --- From elsewhere ---- */

/* #syscalls futex */
static void wake(struct vcpu *vcpu)
{
	uint32_t asleep = ASLEEP;

	if (atomic_compare_exchange_strong(&vcpu->irq.where, &asleep, OUTSIDE))
		syscall(SYS_futex, &vcpu->irq.where, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void vcpu_notify(struct vcpu *vcpu)
{
	uint32_t in_guest = IN_GUEST;

	/* The first who notifies kicks. */
	if (atomic_compare_exchange_strong(&vcpu->irq.where, &in_guest, OUTSIDE))
		hav_vcpu_kick(vcpu->hav);
	else if (in_guest == ASLEEP)
		wake(vcpu);
}

void vcpu_kick(struct vcpu *vcpu)
{
	hav_vcpu_kick(vcpu->hav);
	wake(vcpu);
}

static void notify_by_number(void *opaque, unsigned cpu)
{
	struct machine *machine = opaque;

	vcpu_notify(&machine->vcpus[cpu]);
}

static bool is_for_pics(const struct vcpu *vcpu)
{
	return vcpu->irq.pics && (!vcpu->irq.lapic || lapic_accepts_pic(vcpu->irq.lapic));
}

void vcpus_notify_pic(struct machine *machine)
{
	for (unsigned i = 0; i < machine->n_vcpus; i++)
		if (is_for_pics(&machine->vcpus[i]))
			vcpu_notify(&machine->vcpus[i]);
}

static void on_alarm(void *opaque)
{
	struct vcpu *vcpu = opaque;

	vcpu->irq.timer_due = true;
	vcpu_notify(vcpu);
}

/* --- What a local APIC knows of the world ---- */

static uint64_t clock_ns(void *opaque)
{
	return vclock_now(((struct machine *)opaque)->clock);
}

static uint64_t tsc_of(void *opaque, unsigned cpu)
{
	return hav_vcpu_tsc(((struct machine *)opaque)->vcpus[cpu].hav);
}

static void eoi(void *opaque, uint8_t vector)
{
	struct machine *machine = opaque;

	if (machine->irqs.chip)
		irqchip_eoi(machine->irqs.chip, vector);
}

int vcpus_make_lapics(struct machine *machine, struct error **err)
{
	const struct lapic_host host = { machine, clock_ns, tsc_of, notify_by_number, eoi };
	uint32_t ids[LAPIC_MAX_CPUS], tsc_khz = 0;

	for (unsigned i = 0; i < machine->n_vcpus; i++) {
		machine->vcpus[i].irq.pics = machine->irqchip == HAV_IRQCHIP_NONE ||
					     (machine->irqchip == HAV_IRQCHIP_SPLIT && i == 0);
		ids[i] = machine->vcpus[i].apic_id;
	}
	if (machine->irqchip != HAV_IRQCHIP_NONE)
		return 0;
	if (hav_capability(machine->hav, HAV_CAP_TSC_DEADLINE_EXITS))
		tsc_khz = hav_vcpu_tsc_khz(machine->vcpus[0].hav);
	machine->irqs.lapics = lapics_new(ids, machine->n_vcpus, tsc_khz, &host);
	for (unsigned i = 0; i < machine->n_vcpus; i++) {
		struct vcpu *vcpu = &machine->vcpus[i];

		vcpu->irq.lapic = &machine->irqs.lapics->lapic[i];
		vcpu->irq.alarm = vclock_alarm_new(machine->clock, on_alarm, vcpu);
		vcpu_irq_reset(vcpu);
	}
	return 0;
}

/* A thread that sleeps for its guest wakes when it should; the default is up to 50 us late. */
void vcpu_irq_thread(struct vcpu *vcpu)
{
	if (vcpu->irq.lapic)
		prctl(PR_SET_TIMERSLACK, 1);
}

void vcpu_irq_reset(struct vcpu *vcpu)
{
	struct vcpu_irq *q = &vcpu->irq;

	if (q->pics)
		hav_vcpu_want_irq_window(vcpu->hav, false);
	q->wants_window = false;
	if (!q->lapic)
		return;
	lapic_reset(q->lapic);
	vclock_alarm_set(q->alarm, VCLOCK_NEVER);
	q->armed = VCLOCK_NEVER;
	q->timer_due = false;
	q->halted = false;
	q->waits_for_sipi = vcpu->id != 0;
	hav_vcpu_set_cr8(vcpu->hav, 0);
}

/* --- INIT and SIPI (Intel SDM vol. 3 §9.4; vol. 3 table 9-1) ---- */

#define INIT_GROUPS (HAV_STATE_REGS | HAV_STATE_SREGS | HAV_STATE_DEBUG | HAV_STATE_EVENTS)

static int take_init(struct vcpu *vcpu, struct error **err)
{
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));
	uint64_t cr0, apic_base;

	atomic_fetch_and(&vcpu->irq.lapic->events, ~(LAPIC_INIT | LAPIC_NMI | LAPIC_EXTINT));
	/* The bootstrap processor would go on in firmware, which would start the machine anew. */
	if (vcpu->id == 0) {
		vcpu->irq.halted = true;
		machine_reset_request(vcpu->machine, CAUSE_GUEST_RESET);
		return 0;
	}
	if (hav_vcpu_get_state(vcpu->hav, HAV_STATE_SREGS, state, err) < 0)
		return -1;
	cr0 = state->sregs.cr0;
	apic_base = state->sregs.apic_base;
	*state = *vcpus_reset_state(vcpu->machine);
	state->sregs.cr0 = (state->sregs.cr0 & ~CR0_KEPT) | (cr0 & CR0_KEPT);
	state->sregs.apic_base = apic_base;
	lapic_init(vcpu->irq.lapic);
	vcpu->irq.halted = false;
	vcpu->irq.waits_for_sipi = true;
	return hav_vcpu_set_state(vcpu->hav, INIT_GROUPS, state, err);
}

static int take_sipi(struct vcpu *vcpu, struct error **err)
{
	struct hav_state *state AUTO_FREE = xcalloc(1, sizeof(*state));
	uint8_t vector = vcpu->irq.lapic->sipi_vector;

	atomic_fetch_and(&vcpu->irq.lapic->events, ~LAPIC_SIPI);
	if (!vcpu->irq.waits_for_sipi)
		return 0;
	if (hav_vcpu_get_state(vcpu->hav, HAV_STATE_REGS | HAV_STATE_SREGS, state, err) < 0)
		return -1;
	state->sregs.cs.selector = vector << 8;
	state->sregs.cs.base = vector << 12;
	state->regs.rip = 0;
	vcpu->irq.waits_for_sipi = false;
	return hav_vcpu_set_state(vcpu->hav, HAV_STATE_REGS | HAV_STATE_SREGS, state, err);
}

/* --- Delivery ---- */

/* The requests that count now: a processor that waits for a SIPI takes nothing else. */
static uint32_t events(const struct vcpu_irq *q)
{
	uint32_t all = q->lapic ? atomic_load(&q->lapic->events) : 0;

	return q->waits_for_sipi ? all & (LAPIC_INIT | LAPIC_SIPI) : all;
}

static int take_events(struct vcpu *vcpu, struct error **err)
{
	struct vcpu_irq *q = &vcpu->irq;

	if (events(q) & LAPIC_INIT && take_init(vcpu, err) < 0)
		return -1;
	if (events(q) & LAPIC_SIPI && take_sipi(vcpu, err) < 0)
		return -1;
	if (events(q) & LAPIC_NMI) {
		atomic_fetch_and(&q->lapic->events, ~LAPIC_NMI);
		q->halted = false;
		return hav_vcpu_nmi(vcpu->hav, err);
	}
	return 0;
}

static void run_timer(struct vcpu_irq *q)
{
	if (!q->lapic || !atomic_exchange(&q->timer_due, false))
		return;
	q->armed = VCLOCK_NEVER;
	lapic_run_timer(q->lapic);
}

static bool pic_asks(const struct vcpu *vcpu)
{
	const struct vcpu_irq *q = &vcpu->irq;
	struct irqchip *chip = vcpu->machine->irqs.chip;

	if (q->lapic && atomic_load(&q->lapic->events) & LAPIC_EXTINT)
		return true;
	return q->pics && chip && irqchip_pic_output(chip) && is_for_pics(vcpu);
}

static bool something_asks(const struct vcpu *vcpu)
{
	const struct vcpu_irq *q = &vcpu->irq;

	return (q->lapic && lapic_pending(q->lapic) >= 0) || pic_asks(vcpu);
}

static int interrupt(struct vcpu *vcpu, struct error **err)
{
	struct vcpu_irq *q = &vcpu->irq;
	int vector = q->lapic ? lapic_pending(q->lapic) : -1;

	if (vector >= 0) {
		lapic_accept(q->lapic, vector);
	} else {
		if (q->lapic)
			atomic_fetch_and(&q->lapic->events, ~LAPIC_EXTINT);
		vector = irqchip_pic_acknowledge(vcpu->machine->irqs.chip);
	}
	q->halted = false;
	return hav_vcpu_interrupt(vcpu->hav, vector, err);
}

static void want_window(struct vcpu *vcpu, bool want)
{
	if (want == vcpu->irq.wants_window)
		return;
	vcpu->irq.wants_window = want;
	hav_vcpu_want_irq_window(vcpu->hav, want);
}

static int deliver(struct vcpu *vcpu, struct error **err)
{
	struct vcpu_irq *q = &vcpu->irq;

	if (q->waits_for_sipi)
		return 0;
	if (q->lapic)
		lapic_set_cr8(q->lapic, hav_vcpu_get_cr8(vcpu->hav));
	if (something_asks(vcpu) && hav_vcpu_interruptible(vcpu->hav) && interrupt(vcpu, err) < 0)
		return -1;
	want_window(vcpu, something_asks(vcpu));
	return 0;
}

/* --- Sleep ---- */

static bool can_be_woken(const struct vcpu *vcpu)
{
	const struct vcpu_irq *q = &vcpu->irq;

	if (q->timer_due || events(q) & ~(uint32_t)LAPIC_EXTINT)
		return true;
	return !q->waits_for_sipi && something_asks(vcpu) && hav_vcpu_interruptible(vcpu->hav);
}

/* False when something is wanted of the thread. */
static bool sleep_halted(struct vcpu *vcpu)
{
	struct vcpu_irq *q = &vcpu->irq;
	uint64_t host = vclock_to_host(vcpu->machine->clock, q->lapic->deadline);
	struct timespec ts = { host / NS, host % NS };

	if (q->armed != VCLOCK_NEVER) {
		vclock_alarm_set(q->alarm, VCLOCK_NEVER);
		q->armed = VCLOCK_NEVER;
	}
	atomic_store(&q->where, ASLEEP);
	if (!vcpu_is_wanted(vcpu) && !can_be_woken(vcpu))
		syscall(SYS_futex, &q->where, FUTEX_WAIT_BITSET_PRIVATE, ASLEEP,
			host == VCLOCK_NEVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
	atomic_store(&q->where, OUTSIDE);
	lapic_run_timer(q->lapic);
	return !vcpu_is_wanted(vcpu);
}

/* --- In and out of the guest ---- */

static void set_alarm(struct vcpu_irq *q)
{
	if (!q->lapic || q->lapic->deadline >= q->armed)
		return;
	q->armed = q->lapic->deadline;
	vclock_alarm_set(q->alarm, q->armed);
}

int vcpu_irq_enter(struct vcpu *vcpu, struct error **err)
{
	struct vcpu_irq *q = &vcpu->irq;

	if (!q->lapic && !q->pics)
		return 1;
	for (;;) {
		run_timer(q);
		if (events(q) && take_events(vcpu, err) < 0)
			return -1;
		if (!q->halted && !q->waits_for_sipi)
			set_alarm(q);
		atomic_store(&q->where, IN_GUEST);
		if (q->timer_due || events(q) & ~(uint32_t)LAPIC_EXTINT) {
			atomic_store(&q->where, OUTSIDE);
			continue;
		}
		if (deliver(vcpu, err) < 0)
			return -1;
		if (!q->halted && !q->waits_for_sipi)
			return 1;
		if (!sleep_halted(vcpu))
			return 0;
	}
}

void vcpu_irq_left(struct vcpu *vcpu)
{
	if (vcpu->irq.lapic || vcpu->irq.pics)
		atomic_store(&vcpu->irq.where, OUTSIDE);
}

/* --- Exits ---- */

static void access_page(struct lapic *l, struct hav_exit *exit)
{
	unsigned offset = exit->mmio.gpa % LAPIC_SIZE, size = exit->mmio.size;
	uint32_t value = 0;

	if (size > 4)
		size = 4;
	if (exit->mmio.write) {
		__builtin_memcpy(&value, exit->mmio.data, size);
		lapic_write(l, offset, exit->mmio.size, value);
	} else {
		value = lapic_read(l, offset, size);
		__builtin_memset(exit->mmio.data, 0, exit->mmio.size);
		__builtin_memcpy(exit->mmio.data, &value, size);
	}
}

static void access_msr(struct lapic *l, struct hav_exit *exit)
{
	bool known = exit->msr.write ? lapic_write_msr(l, exit->msr.index, *exit->msr.value)
				     : lapic_read_msr(l, exit->msr.index, exit->msr.value);

	if (known)
		return;
	log_item(LOG_GUEST_ERRORS, "vcpu %u: %s MSR 0x%x: #GP", l->cpu,
		 exit->msr.write ? "write to" : "read of", exit->msr.index);
	*exit->msr.fault = true;
}

/* The task priority is in two places: the vCPU's CR8, and the local APIC. */
static void access_lapic(struct vcpu *vcpu, struct hav_exit *exit)
{
	struct lapic *l = vcpu->irq.lapic;
	unsigned cr8 = hav_vcpu_get_cr8(vcpu->hav);

	lapic_set_cr8(l, cr8);
	if (exit->reason == HAV_EXIT_MSR)
		access_msr(l, exit);
	else
		access_page(l, exit);
	if (lapic_cr8(l) != cr8)
		hav_vcpu_set_cr8(vcpu->hav, lapic_cr8(l));
}

bool vcpu_irq_exit(struct vcpu *vcpu, struct hav_exit *exit)
{
	struct lapic *l = vcpu->irq.lapic;

	switch (exit->reason) {
	case HAV_EXIT_IRQ_WINDOW:
	case HAV_EXIT_TPR: return true;
	case HAV_EXIT_EOI: eoi(vcpu->machine, exit->eoi.vector); return true;
	case HAV_EXIT_HLT: vcpu->irq.halted = l; return l;
	case HAV_EXIT_MMIO:
		if (!l || !lapic_decodes(l, exit->mmio.gpa))
			return false;
		break;
	case HAV_EXIT_MSR:
		if (!l)
			return false;
		break;
	default: return false;
	}
	access_lapic(vcpu, exit);
	return true;
}
