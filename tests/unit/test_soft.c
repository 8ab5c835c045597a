/* The software backend by libhav's calls: time-stamp counters as state. */
#include "hav.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MSR_TSC        0x10
#define MSR_TSC_ADJUST 0x3b
#define N_VCPUS        2

struct guest {
	struct hav *hav;
	struct hav_vm *vm;
	struct hav_vcpu *vcpus[N_VCPUS];
};

static void must(int r, struct error *err)
{
	if (r < 0)
		fail_msg("%s", hav_error_message(err));
}

static void start(struct guest *g)
{
	const struct hav_vm_config config = { .irqchip = HAV_IRQCHIP_NONE, .max_vcpus = N_VCPUS };
	struct error *err = NULL;

	must(hav_open(&g->hav, "soft", &err), err);
	must(hav_vm_create(g->hav, &config, &g->vm, &err), err);
	for (unsigned i = 0; i < N_VCPUS; i++)
		must(hav_vcpu_create(g->vm, i, &g->vcpus[i], &err), err);
}

static void stop(struct guest *g)
{
	for (unsigned i = 0; i < N_VCPUS; i++)
		hav_vcpu_destroy(g->vcpus[i]);
	hav_vm_destroy(g->vm);
	hav_close(g->hav);
}

static uint64_t *msr(struct hav_state *state, uint32_t index)
{
	for (unsigned i = 0; i < state->n_msrs; i++)
		if (state->msrs[i].index == index)
			return &state->msrs[i].value;
	fail_msg("no MSR 0x%x", index);
	return NULL;
}

static void get_msrs(struct hav_vcpu *vcpu, struct hav_state *state)
{
	struct error *err = NULL;

	must(hav_vcpu_get_state(vcpu, HAV_STATE_MSRS, state, &err), err);
}

/* What is loaded is what there is then, and the same on all vCPUs, however long it took. */
static void check_load(struct guest *g, uint64_t tsc, uint64_t adjust)
{
	struct hav_state *state = calloc(1, sizeof(*state));
	struct error *err = NULL;
	uint64_t seen[3];

	get_msrs(g->vcpus[0], state);
	*msr(state, MSR_TSC) = tsc;
	*msr(state, MSR_TSC_ADJUST) = adjust;
	for (unsigned i = 0; i < N_VCPUS; i++) {
		must(hav_vcpu_set_state(g->vcpus[i], HAV_STATE_MSRS, state, &err), err);
		usleep(2000);
	}
	for (unsigned i = 0; i < 3; i++)
		seen[i] = hav_vcpu_tsc(g->vcpus[i % 2]);
	assert_true(seen[0] <= seen[1] && seen[1] <= seen[2]);
	assert_in_range(seen[0], tsc, tsc + hav_vcpu_tsc_khz(g->vcpus[0]) * UINT64_C(1000));
	for (unsigned i = 0; i < N_VCPUS; i++) {
		get_msrs(g->vcpus[i], state);
		assert_true(*msr(state, MSR_TSC_ADJUST) == adjust);
		assert_true(*msr(state, MSR_TSC) >= seen[2]);
	}
	free(state);
}

static void time_stamps_are_state(void **unused)
{
	struct guest g = { 0 };

	start(&g);
	check_load(&g, UINT64_C(1) << 50, 0);
	check_load(&g, 0, 12345);
	check_load(&g, UINT64_C(1) << 60, -(uint64_t)7);
	stop(&g);
}

/* The clock moves, and with it what is the same for all. */
static void clock_moves_all(void **unused)
{
	struct guest g = { 0 };
	struct error *err = NULL;
	uint64_t before;

	start(&g);
	must(hav_vm_set_clock(g.vm, 5000000000, &err), err);
	before = hav_vcpu_tsc(g.vcpus[0]);
	assert_in_range(hav_vcpu_tsc(g.vcpus[1]), before,
			before + hav_vcpu_tsc_khz(g.vcpus[0]) * UINT64_C(1000));
	check_load(&g, before, 0);
	stop(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(time_stamps_are_state),
		cmocka_unit_test(clock_moves_all),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
