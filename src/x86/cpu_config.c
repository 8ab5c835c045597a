/*
 * What a guest sees of the CPUID leaves a backend can give: see cpuid_features.h.
 *
 * A model is a set of features it has at most ("host": all). A feature word of the guest is what
 * the backend gives, cut to the model with the changes of -cpu. Leaves that belong to a feature go
 * away with it, and a named model brings its own identity. What is only about this processor's
 * place among others (APIC ids, topology) is not decided here.
 */
#include "x86/cpuid_features.h"

#include <string.h>

#define FEATURE_HT         (1u << 28) /* 1 EDX: follows the topology */
#define FEATURE_HYPERVISOR (1u << 31) /* 1 ECX: true of every backend */
#define FEATURE_INVTSC     (1u << 8)  /* 0x80000007 EDX */
#define AMD_COPIES         0x0183f3ff /* 0x80000001 EDX repeats these of 1 EDX */

#define LEAF_HYPERVISOR    0x40000000
#define LEAF_PMU           0xa
#define LEAF_XSAVE         0xd
#define LEAF_EXTENDED      0x80000000
#define LEAF_BRAND         0x80000002 /* to 0x80000004 */

/* Leaves that describe a feature and make no sense without it. */
static const struct {
	uint32_t leaf;
	enum cpu_word word;
	uint32_t feature;
} leaf_of_feature[] = {
	{ 0x5, CPU_1_ECX, 1u << 3 },                /* monitor */
	{ LEAF_XSAVE, CPU_1_ECX, 1u << 26 },        /* xsave */
	{ 0x12, CPU_7_0_EBX, 1u << 2 },             /* sgx */
	{ 0x14, CPU_7_0_EBX, 1u << 25 },            /* intel-pt */
	{ 0x1d, CPU_7_0_EDX, 1u << 24 },            /* amx-tile */
	{ 0x1e, CPU_7_0_EDX, 1u << 24 },            /* amx-tile */
	{ 0x8000000a, CPU_80000001_ECX, 1u << 2 },  /* svm */
	{ 0x8000001d, CPU_80000001_ECX, 1u << 22 }, /* topoext */
	{ 0x8000001e, CPU_80000001_ECX, 1u << 22 }, /* topoext */
};

/* State components of XSAVE that belong to a feature (SDM vol. 1 §13.1). */
static const struct {
	unsigned component;
	enum cpu_word word;
	uint32_t feature;
} component_of_feature[] = {
	{ 2, CPU_1_ECX, 1u << 28 },                                  /* avx */
	{ 3, CPU_7_0_EBX, 1u << 14 },                                /* mpx */
	{ 4, CPU_7_0_EBX, 1u << 14 },  { 5, CPU_7_0_EBX, 1u << 16 }, /* avx512f */
	{ 6, CPU_7_0_EBX, 1u << 16 },  { 7, CPU_7_0_EBX, 1u << 16 },
	{ 9, CPU_7_0_ECX, 1u << 3 },   /* pku */
	{ 17, CPU_7_0_EDX, 1u << 24 }, /* amx-tile */
	{ 18, CPU_7_0_EDX, 1u << 24 },
};

bool cpu_config_feature(struct cpu_config *config, const char *name, bool on)
{
	const struct cpu_feature *found = cpu_feature_find(name);

	for (const struct cpu_feature *f = cpu_features; found && f->name; f++) {
		uint32_t bit = 1u << f->bit;

		if (strcmp(f->name, found->name))
			continue;
		config->on[f->word] = on ? config->on[f->word] | bit : config->on[f->word] & ~bit;
		config->off[f->word] = on ? config->off[f->word] & ~bit
					  : config->off[f->word] | bit;
	}
	return found;
}

/* The bits of a word the guest may have. */
static uint32_t allowed(const struct cpu_config *config, enum cpu_word word)
{
	uint32_t bits = config->model->host || word == CPU_KVM_EAX ? UINT32_MAX
								   : config->model->words[word];

	if (word == CPU_80000007_EDX && config->migratable)
		bits &= ~FEATURE_INVTSC;
	bits = (bits | config->on[word]) & ~config->off[word];
	if (word == CPU_80000001_EDX)
		bits &= ~(config->off[CPU_1_EDX] & AMD_COPIES);
	return bits;
}

static uint32_t allowed_components(const struct cpu_config *config)
{
	uint32_t components = UINT32_MAX;

	for (unsigned i = 0; i < sizeof(component_of_feature) / sizeof(component_of_feature[0]);
	     i++) {
		if (!(allowed(config, component_of_feature[i].word) &
		      component_of_feature[i].feature))
			components &= ~(1u << component_of_feature[i].component);
	}
	return components;
}

static bool has_leaf(const struct cpu_config *config, uint32_t leaf, uint32_t subleaf)
{
	const struct cpu_model *model = config->model;

	if (leaf >= LEAF_HYPERVISOR && leaf < LEAF_EXTENDED)
		return config->kvm;
	if (!model->host && leaf > (leaf < LEAF_EXTENDED ? model->level : model->xlevel))
		return false;
	if (leaf == LEAF_XSAVE && subleaf >= 2 && subleaf < 32 &&
	    !(allowed_components(config) & 1u << subleaf))
		return false;
	for (unsigned i = 0; i < sizeof(leaf_of_feature) / sizeof(leaf_of_feature[0]); i++) {
		if (leaf_of_feature[i].leaf == leaf &&
		    !(allowed(config, leaf_of_feature[i].word) & leaf_of_feature[i].feature))
			return false;
	}
	return true;
}

static uint32_t four_letters(const char *s)
{
	const unsigned char *c = (const unsigned char *)s;

	return c[0] | c[1] << 8 | c[2] << 16 | (uint32_t)c[3] << 24;
}

/* Who a named model says it is. */
static void set_identity(const struct cpu_model *model, uint32_t leaf, uint32_t regs[4])
{
	char brand[48] = { 0 };

	switch (leaf) {
	case 0:
	case LEAF_EXTENDED:
		regs[CPU_EAX] = leaf ? model->xlevel : model->level;
		regs[CPU_EBX] = four_letters(model->vendor);
		regs[CPU_EDX] = four_letters(model->vendor + 4);
		regs[CPU_ECX] = four_letters(model->vendor + 8);
		break;
	case 1: regs[CPU_EAX] = model->signature; break;
	case LEAF_BRAND:
	case LEAF_BRAND + 1:
	case LEAF_BRAND + 2:
		strncpy(brand, model->model_id, sizeof(brand) - 1);
		for (unsigned r = 0; r < 4; r++)
			regs[r] = four_letters(brand + (leaf - LEAF_BRAND) * 16 + r * 4);
		break;
	}
}

bool cpu_config_apply(const struct cpu_config *config, uint32_t leaf, uint32_t subleaf,
		      uint32_t regs[4])
{
	if (!has_leaf(config, leaf, subleaf))
		return false;
	if (!config->model->host)
		set_identity(config->model, leaf, regs);
	if (leaf == 1)
		regs[CPU_ECX] |= FEATURE_HYPERVISOR;
	for (unsigned w = 0; w < CPU_WORDS; w++) {
		if (cpu_words[w].leaf == leaf && cpu_words[w].subleaf == subleaf)
			regs[cpu_words[w].reg] &= allowed(config, w);
	}
	if (leaf == LEAF_XSAVE && subleaf == 0)
		regs[CPU_EAX] &= allowed_components(config);
	if (leaf == LEAF_PMU && !config->pmu)
		memset(regs, 0, 4 * sizeof(*regs));
	return true;
}

const struct cpu_feature *cpu_config_missing(const struct cpu_config *config,
					     const uint32_t supported[CPU_WORDS], size_t *cursor)
{
	while (cpu_features[*cursor].name) {
		const struct cpu_feature *f = &cpu_features[(*cursor)++];
		uint32_t asked = config->on[f->word] |
				 (config->model->words[f->word] & ~config->off[f->word]);
		uint32_t there = supported[f->word];

		if (f->word == CPU_1_EDX)
			there |= FEATURE_HT;
		if (f->word == CPU_1_ECX)
			there |= FEATURE_HYPERVISOR;
		if (asked & ~there & 1u << f->bit)
			return f;
	}
	return NULL;
}
