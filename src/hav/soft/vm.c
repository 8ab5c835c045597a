/*
 * Software backend: guest memory and who holds code of it.
 *
 * Slots are published as immutable lists, so that vCPUs look them up without a lock.
 *
 * Two bits of a page's code generation tell that writes to it are watched, and that it may be
 * decoded. Watched, no TLB lets a write through, and each write, once it is in memory, begins a
 * new generation without them: what was decoded or translated is void, and vCPUs are told. The
 * delicate moment is when a page becomes a code page: another vCPU may already have looked into
 * its TLB and be about to store. So it is asked to forget which pages it may write, and waited
 * for; it answers between two instructions. Only then is the page read.
 * (Without that wait a vCPU could keep an old instruction for ever.)
 */
#include "hav/soft/soft.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>
#include <sched.h>

const struct soft_slot *soft_slot(struct soft_vm *vm, uint64_t gpa)
{
	const struct soft_slots *slots = atomic_load_explicit(&vm->slots, memory_order_acquire);

	for (unsigned i = 0; i < slots->n; i++)
		if (gpa - slots->at[i].gpa < slots->at[i].size)
			return &slots->at[i];
	return NULL;
}

uint8_t *soft_host(struct soft_vm *vm, uint64_t gpa, uint64_t size)
{
	const struct soft_slot *slot = soft_slot(vm, gpa);

	if (!slot || slot->size - (gpa - slot->gpa) < size)
		return NULL;
	return slot->host + (gpa - slot->gpa);
}

static void attend_writes(struct soft_vcpu *cpu)
{
	if (atomic_load(&cpu->attention) & ATTENTION_FLUSH_WRITES) {
		soft_tlb_flush_writes(cpu);
		atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_FLUSH_WRITES);
	}
}

void soft_attend(struct soft_vcpu *cpu)
{
	attend_writes(cpu);
	if (atomic_load(&cpu->attention) & ATTENTION_FLUSH_ALL) {
		soft_tlb_flush(cpu, true);
		soft_code_flush(cpu);
		soft_jit_flush(cpu);
		atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_FLUSH_ALL);
	}
	if (atomic_load(&cpu->attention) & ATTENTION_CODE) {
		atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_CODE);
		soft_jit_validate(cpu);
	}
}

/* Until every other vCPU that is in the guest has done what was asked. */
static void await_others(struct soft_vcpu *cpu, struct soft_vm *vm, unsigned asked)
{
	unsigned n = atomic_load(&vm->n_vcpus);

	for (unsigned i = 0; i < n; i++) {
		struct soft_vcpu *other = atomic_load(&vm->vcpus[i]);

		for (unsigned spins = 0; other && other != cpu && atomic_load(&other->in_guest) &&
					 (atomic_load(&other->attention) & asked);
		     spins++) {
			if (cpu)
				attend_writes(cpu);
			if (spins > 100)
				sched_yield();
		}
	}
}

static void ask_others(struct soft_vcpu *cpu, struct soft_vm *vm, unsigned what)
{
	unsigned n = atomic_load(&vm->n_vcpus);

	for (unsigned i = 0; i < n; i++) {
		struct soft_vcpu *other = atomic_load(&vm->vcpus[i]);

		if (other && other != cpu)
			atomic_fetch_or(&other->attention, what);
	}
}

/* #syscalls:vcpu sched_yield */
uint32_t soft_code_begin(struct soft_vcpu *cpu, _Atomic uint32_t *code)
{
	uint32_t now = atomic_load(code);

	if (soft_is_code(now))
		return now;
	while (atomic_flag_test_and_set(&cpu->vm->code_lock)) {
		attend_writes(cpu);
		sched_yield();
	}
	now = atomic_load(code);
	while (!soft_is_code(now)) {
		uint32_t watched = (now & ~SOFT_CODE_READY) | SOFT_CODE_WATCHED;

		if (!atomic_compare_exchange_strong(code, &now, watched))
			continue;
		soft_tlb_flush_writes(cpu);
		ask_others(cpu, cpu->vm, ATTENTION_FLUSH_WRITES);
		await_others(cpu, cpu->vm, ATTENTION_FLUSH_WRITES);
		/* Unless it was written meanwhile: then once more. */
		now = watched;
		if (atomic_compare_exchange_strong(code, &now, watched | SOFT_CODE_READY))
			now = watched | SOFT_CODE_READY;
	}
	atomic_flag_clear(&cpu->vm->code_lock);
	return now;
}

void soft_code_written(struct soft_vm *vm, _Atomic uint32_t *code)
{
	uint32_t now = atomic_load(code);

	do
		if (!(now & 3))
			return;
	while (!atomic_compare_exchange_weak(code, &now, (now | 3) + 1));
	if (soft_is_code(now))
		ask_others(NULL, vm, ATTENTION_CODE);
}

static void written_in_slot(struct soft_vm *vm, const struct soft_slot *slot, uint64_t gpa,
			    uint64_t size)
{
	uint64_t end = slot->gpa + slot->size, past = size > end - gpa ? end : gpa + size;

	for (uint64_t page = (gpa - slot->gpa) / SOFT_PAGE; page * SOFT_PAGE < past - slot->gpa;
	     page++)
		soft_code_written(vm, &slot->code[page]);
}

/*
 * The fence: what was written must be seen by whoever makes one of the pages a code page after we
 * found that it was none. (A vCPU's own writes need none; it is waited for.)
 */
void soft_memory_written(struct hav_vm *hvm, uint64_t gpa, uint64_t size)
{
	struct soft_vm *vm = container_of(hvm, struct soft_vm, vm);
	const struct soft_slots *slots = atomic_load_explicit(&vm->slots, memory_order_acquire);

	atomic_thread_fence(memory_order_seq_cst);
	for (unsigned i = 0; i < slots->n; i++) {
		const struct soft_slot *slot = &slots->at[i];
		uint64_t before = gpa < slot->gpa ? slot->gpa - gpa : 0;

		if (before < size && gpa + before - slot->gpa < slot->size)
			written_in_slot(vm, slot, gpa + before, size - before);
	}
}

/* --- Calls of the API ---- */

int soft_vm_create(struct hav *hav, const struct hav_vm_config *config, struct hav_vm **out,
		   struct error **err)
{
	struct soft_vm *vm;
	cpu_set_t allowed;

	if (config->irqchip != HAV_IRQCHIP_NONE) {
		error_set(err, "the software backend has no interrupt controllers of its own: "
			       "use HAV_IRQCHIP_NONE");
		return -1;
	}
	vm = xcalloc(1, sizeof(*vm));
	vm->vm.ops = hav->ops;
	vm->vm.config = *config;
	vm->n_host = sched_getaffinity(0, sizeof(allowed), &allowed) ? 1 : CPU_COUNT(&allowed);
	vm->tsc_khz = container_of(hav, struct soft_hav, hav)->tsc_khz;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->split_lock, NULL);
	atomic_init(&vm->slots, xcalloc(1, sizeof(struct soft_slots)));
	*out = &vm->vm;
	return 0;
}

void soft_vm_destroy(struct hav_vm *hvm)
{
	struct soft_vm *vm = container_of(hvm, struct soft_vm, vm);
	struct soft_slots *slots = atomic_load(&vm->slots), *older;

	for (unsigned i = 0; i < slots->n; i++)
		free((void *)slots->at[i].code);
	for (; slots; slots = older) {
		older = slots->older;
		free(slots);
	}
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->split_lock);
	free(vm);
}

/* Makes a new list current; vCPUs forget their translations before this returns. */
static void publish(struct soft_vm *vm, struct soft_slots *slots)
{
	slots->older = atomic_load(&vm->slots);
	atomic_store(&vm->slots, slots);
	ask_others(NULL, vm, ATTENTION_FLUSH_ALL);
	await_others(NULL, vm, ATTENTION_FLUSH_ALL);
}

static struct soft_slots *copy_slots(struct soft_vm *vm)
{
	struct soft_slots *slots = xcalloc(1, sizeof(*slots));

	*slots = *atomic_load(&vm->slots);
	return slots;
}

int soft_vm_map(struct hav_vm *hvm, uint64_t gpa, void *host, uint64_t size, unsigned flags,
		struct error **err)
{
	struct soft_vm *vm = container_of(hvm, struct soft_vm, vm);
	struct soft_slots *slots;
	int r = -1;

	if (flags & HAV_MAP_DIRTY_LOG) {
		error_set(err, "the software backend has no dirty log");
		errno = ENOTSUP;
		return -1;
	}
	pthread_mutex_lock(&vm->lock);
	slots = copy_slots(vm);
	if (slots->n == SOFT_MAX_SLOTS) {
		error_set(err, "no room for another mapping; there may be %d", SOFT_MAX_SLOTS);
		errno = ENOSPC;
		goto out;
	}
	for (unsigned i = 0; i < slots->n; i++)
		if (gpa < slots->at[i].gpa + slots->at[i].size && slots->at[i].gpa < gpa + size) {
			error_set(err, "the mapping at 0x%llx overlaps the one at 0x%llx",
				  (unsigned long long)gpa, (unsigned long long)slots->at[i].gpa);
			errno = EEXIST;
			goto out;
		}
	slots->at[slots->n++] = (struct soft_slot){
		.gpa = gpa,
		.size = size,
		.host = host,
		.writable = flags & HAV_MAP_WRITE,
		.code = xcalloc(size / SOFT_PAGE, sizeof(_Atomic uint32_t)),
	};
	publish(vm, slots);
	slots = NULL;
	r = 0;
out:
	pthread_mutex_unlock(&vm->lock);
	free(slots);
	return r;
}

int soft_vm_unmap(struct hav_vm *hvm, uint64_t gpa, struct error **err)
{
	struct soft_vm *vm = container_of(hvm, struct soft_vm, vm);
	struct soft_slots *slots;

	pthread_mutex_lock(&vm->lock);
	slots = copy_slots(vm);
	for (unsigned i = 0; i < slots->n; i++)
		if (slots->at[i].gpa == gpa) {
			_Atomic uint32_t *code = slots->at[i].code;

			slots->at[i] = slots->at[--slots->n];
			publish(vm, slots);
			free((void *)code);
			pthread_mutex_unlock(&vm->lock);
			return 0;
		}
	pthread_mutex_unlock(&vm->lock);
	free(slots);
	error_set(err, "no mapping begins at 0x%llx", (unsigned long long)gpa);
	errno = ENOENT;
	return -1;
}
