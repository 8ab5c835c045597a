/*
 * -cpu and -smp: which processor, and how many of it.
 *
 * "-cpu MODEL,+a,-b,c=on": as in QEMU, keys count first, then every +, then every -, whatever their
 * order. A key that is no property of the model is a CPU feature.
 */
#include "revirter/dialect_internal.h"

#include "base/error.h"
#include "base/util.h"

#include <inttypes.h>
#include <string.h>

int option_cpu(struct dialect *d, const char *argument, struct error **err)
{
	if (is_help(argument)) {
		help_cpus();
		d->done = true;
		return 0;
	}
	free(d->cpu);
	d->cpu = xstrdup(argument);
	return 0;
}

/* --- -cpu ---- */

static const struct {
	const char *name;
	size_t offset;
} cpu_switches[] = {
	{ "kvm", offsetof(struct cpu_config, kvm) },
	{ "pmu", offsetof(struct cpu_config, pmu) },
	{ "migratable", offsetof(struct cpu_config, migratable) },
	{ "check", offsetof(struct cpu_config, check) },
	{ "enforce", offsetof(struct cpu_config, enforce) },
};

static const struct cpu_model *find_model(const char *name, struct error **err)
{
	const struct cpu_model *model = cpu_model_find(name);
	char *names AUTO_FREE = NULL;

	if (model)
		return model;
	for (const struct cpu_model *m = cpu_models; m->name; m++)
		add_name(&names, m->name);
	error_set(err, "no CPU model '%s'; there are: %s", name, names);
	return NULL;
}

static int set_feature(struct cpu_config *cpu, const char *name, bool on, struct error **err)
{
	if (cpu_config_feature(cpu, name, on))
		return 0;
	error_set(err,
		  "no CPU feature or property '%s'; -cpu help lists the features, the properties "
		  "are: kvm, pmu, migratable, check, enforce",
		  name);
	return -1;
}

/* "key=on|off" or "key" */
static int set_key(struct cpu_config *cpu, char *item, struct error **err)
{
	char *value = strchr(item, '=');
	bool on = true;

	if (value) {
		*value++ = '\0';
		if (parse_bool(value, &on, err) < 0) {
			error_prefix(err, "%s: ", item);
			return -1;
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(cpu_switches); i++) {
		if (!strcmp(cpu_switches[i].name, item)) {
			*(bool *)((char *)cpu + cpu_switches[i].offset) = on;
			return 0;
		}
	}
	return set_feature(cpu, item, on, err);
}

/* Goes through "a,b,c" for the items that begin with sign, or with none when sign is 0. */
static int set_items(struct cpu_config *cpu, const char *items, char sign, struct error **err)
{
	char *copy AUTO_FREE = xstrdup(items), *rest = copy, *item;

	while ((item = strsep(&rest, ","))) {
		bool is_signed = *item == '+' || *item == '-';

		if (sign ? *item != sign : is_signed)
			continue;
		if ((sign ? set_feature(cpu, item + 1, sign == '+', err)
			  : set_key(cpu, item, err)) < 0)
			return -1;
	}
	return 0;
}

static int read_cpu(struct cpu_config *cpu, const char *text, struct error **err)
{
	char *name AUTO_FREE = strndup(text, strcspn(text, ","));
	const char *items = text[strlen(name)] ? text + strlen(name) + 1 : NULL;
	const struct cpu_model *model = find_model(name, err);

	if (!model)
		return -1;
	*cpu = (struct cpu_config){
		.model = model,
		.kvm = true,
		.pmu = model->host,
		.migratable = model->host,
		.check = true,
	};
	if (!items)
		return 0;
	return set_items(cpu, items, 0, err) < 0 || set_items(cpu, items, '+', err) < 0
		       ? -1
		       : set_items(cpu, items, '-', err);
}

int finish_cpu(struct dialect *d, struct error **err)
{
	if (read_cpu(&d->desc->cpu, d->cpu ? d->cpu : "host", err) == 0)
		return 0;
	error_prefix(err, "-cpu: ");
	return -1;
}

/* --- -smp ---- */

#define SMP_MAX 4096 /* of any one level: products of all of them fit 64 bits */

static const struct prop smp_props[] = {
	{ "cpus", PROP_INT, .max = UINT32_MAX },  { "maxcpus", PROP_INT, .max = UINT32_MAX },
	{ "sockets", PROP_INT, .max = SMP_MAX },  { "dies", PROP_INT, .max = SMP_MAX },
	{ "clusters", PROP_INT, .max = SMP_MAX }, { "cores", PROP_INT, .max = SMP_MAX },
	{ "threads", PROP_INT, .max = SMP_MAX },  {},
};

struct smp {
	uint64_t cpus, maxcpus, sockets, dies, clusters, cores, threads;
};

static uint64_t or_one(uint64_t n)
{
	return n ? n : 1;
}

/*
 * What was left out, as QEMU since 6.2 computes it: cores before sockets before threads, from the
 * number of CPUs; a number of CPUs from the others; 0 is the same as left out.
 */
static void complete(struct smp *s)
{
	uint64_t max = s->maxcpus ? s->maxcpus : s->cpus;

	s->dies = or_one(s->dies);
	s->clusters = or_one(s->clusters);
	if (max && !s->cores) {
		s->sockets = or_one(s->sockets);
		s->threads = or_one(s->threads);
		s->cores = max / (s->sockets * s->dies * s->clusters * s->threads);
	} else if (max && !s->sockets) {
		s->threads = or_one(s->threads);
		s->sockets = max / (s->dies * s->clusters * s->cores * s->threads);
	} else if (max && !s->threads) {
		s->threads = max / (s->sockets * s->dies * s->clusters * s->cores);
	} else if (!max) {
		s->sockets = or_one(s->sockets);
		s->cores = or_one(s->cores);
		s->threads = or_one(s->threads);
	}
}

static int too_many_cpus(uint64_t cpus, struct error **err)
{
	error_set(err, "%" PRIu64 " CPUs; from 1 to %d are possible", cpus, MACHINE_MAX_VCPUS);
	return -1;
}

static int check_smp(const struct smp *s, uint64_t cpus, uint64_t maxcpus, bool dies,
		     struct error **err)
{
	if (s->clusters > 1 || (s->dies > 1 && !dies)) {
		error_set(err, "this machine has no %s; sockets%s, cores and threads it has",
			  s->clusters > 1 ? "clusters" : "dies", dies ? ", dies" : "");
		return -1;
	}
	if (s->sockets * s->dies * s->cores * s->threads != maxcpus) {
		error_set(err,
			  "%" PRIu64 " sockets * %" PRIu64 " dies * %" PRIu64 " cores * %" PRIu64
			  " threads are not %" PRIu64 " CPUs",
			  s->sockets, s->dies, s->cores, s->threads, maxcpus);
		return -1;
	}
	if (cpus != maxcpus) {
		error_set(err, "CPUs are not added later here; leave maxcpus= away or make it "
			       "equal to cpus=");
		return -1;
	}
	return cpus > MACHINE_MAX_VCPUS ? too_many_cpus(cpus, err) : 0;
}

static int read_smp(struct desc_smp *smp, const char *text, bool dies, struct error **err)
{
	const struct prop *const tables[] = { smp_props, NULL };
	struct props *props = props_parse(text, "cpus", tables, err);
	uint64_t maxcpus, cpus;
	struct smp s;

	if (!props)
		return -1;
	s = (struct smp){
		.cpus = props_u64(props, "cpus"),
		.maxcpus = props_u64(props, "maxcpus"),
		.sockets = props_u64(props, "sockets"),
		.dies = props_u64(props, "dies"),
		.clusters = props_u64(props, "clusters"),
		.cores = props_u64(props, "cores"),
		.threads = props_u64(props, "threads"),
	};
	props_free(props);
	if (s.cpus > MACHINE_MAX_VCPUS)
		return too_many_cpus(s.cpus, err);
	complete(&s);
	maxcpus = s.maxcpus;
	if (!maxcpus)
		maxcpus = s.cpus ? s.cpus : s.sockets * s.dies * s.cores * s.threads;
	cpus = s.cpus ? s.cpus : maxcpus;
	if (check_smp(&s, cpus, maxcpus, dies, err) < 0)
		return -1;
	*smp = (struct desc_smp){ cpus, s.sockets, s.dies, s.cores, s.threads };
	return 0;
}

int finish_smp(struct dialect *d, struct error **err)
{
	bool dies = d->desc->machine.type == MACHINE_Q35;

	if (read_smp(&d->desc->smp, d->smp ? d->smp : "", dies, err) == 0)
		return 0;
	error_prefix(err, "-smp: ");
	return -1;
}
