/*
 * The command line: what words come to, and with which message the others are refused. Everything
 * is run on the real tables of devices, chardevs and network ends; nothing is opened.
 */
#include "base/error.h"
#include "base/log.h"
#include "base/util.h"
#include "chardev/chardev.h"
#include "net/net.h"
#include "revirter/description.h"
#include "revirter/dialect.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <json-c/json.h>

#include <cmocka.h>

#define MAX_WORDS 64

/* Words are separated by blanks; a ~ stands for a blank inside a word. */
static int parse(const char *line, struct description **desc, bool *done, struct error **err)
{
	char *copy AUTO_FREE = xstrdup(line), *rest = copy, *word;
	char name[] = "revirter", *argv[MAX_WORDS] = { name };
	int argc = 1;

	while ((word = strsep(&rest, " "))) {
		for (char *p = word; *p; p++)
			*p = *p == '~' ? ' ' : *p;
		if (*word && argc < MAX_WORDS - 1)
			argv[argc++] = word;
	}
	*desc = NULL;
	*done = false;
	return dialect_parse(argc, argv, desc, done, err);
}

static struct description *accept(const char *line)
{
	struct error *err = NULL;
	struct description *desc;
	bool done;

	if (parse(line, &desc, &done, &err) < 0)
		fail_msg("%s: %s", line, error_message(err));
	assert_false(done);
	return desc;
}

/* With a kernel, which every machine needs. */
static struct description *machine(const char *line)
{
	char *with_kernel AUTO_FREE = xasprintf("-kernel k %s", line);

	return accept(with_kernel);
}

static const char *prop(const struct desc_item *item, const char *name)
{
	return props_str(item->props, name);
}

/* --- What is refused ---- */

static const struct {
	const char *line, *message; /* the message, or its beginning */
} refused[] = {
	{ "", "nothing to boot: there is no firmware, so name a kernel: -kernel FILE" },
	{ "-S", "nothing to boot" },
	{ "-append x", "-append: only with -kernel" },
	{ "-initrd x", "-initrd: only with -kernel" },
	{ "-kernel", "-kernel: needs an argument, FILE" },
	{ "-foo", "-foo: no such option; -h lists what there is" },
	{ "--foo", "--foo: no such option" },
	{ "---kernel k", "---kernel: no such option" },
	{ "-", "-: no such option" },
	{ "--", "--: no such option" },
	{ "-cdrom x", "-cdrom: not supported; disks are -hda, -hdb, -drive and -blockdev" },
	{ "-bios x", "-bios: not supported; there is no firmware" },
	{ "-vnc :1", "-vnc: not supported; there is no screen" },
	{ "-global a.b=c", "-global: not supported; properties are set where" },
	{ "-singlestep", "-singlestep: not supported; for debugging there are -gdb, and -d" },
	{ "-s -gdb tcp::1", "-gdb: there is one gdb stub already" },
	{ "-gdb chardev:g", "-gdb: no chardev 'g'" },
	{ "-gdb mon:stdio", "-gdb: 'mon:stdio': mon: is for -serial" },
	{ "-gdb /x", "-gdb: '/x' is not a character device" },
	{ "-m 0", "-m: 0 bytes of memory; from 1M to 2T is possible" },
	{ "-m 512K", "-m: 524288 bytes of memory" },
	{ "-m 3T", "-m: 3298534883328 bytes of memory" },
	{ "-m x", "-m: property 'size': 'x' is not a size" },
	{ "-m 1.5", "-m: property 'size': '1.5' is not a size" },
	{ "-m -1", "-m: property 'size': '-1' is not a size" },
	{ "-m 1G,slots=2", "-m: memory is not added later here" },
	{ "-m 1G,maxmem=2G", "-m: memory is not added later here" },
	{ "-m 1G,foo", "-m: property 'foo' is not known; there are: size, slots, maxmem" },
	{ "-smp 1000", "-smp: 1000 CPUs; from 1 to 64 are possible" },
	{ "-smp 65", "-smp: 65 CPUs; from 1 to 64 are possible" },
	{ "-smp 99999999999", "-smp: property 'cpus': 99999999999 is out of range" },
	{ "-smp sockets=4096,cores=4096,threads=4096", "-smp: 68719476736 CPUs" },
	{ "-smp -1", "-smp: property 'cpus': '-1' is not a number" },
	{ "-smp 4,cores=3", "-smp: 1 sockets * 1 dies * 3 cores * 1 threads are not 4 CPUs" },
	{ "-smp 4,threads=8", "-smp: 1 sockets * 1 dies * 0 cores * 8 threads are not 4 CPUs" },
	{ "-smp 2,maxcpus=4", "-smp: CPUs are not added later here" },
	{ "-smp 4,maxcpus=2", "-smp: CPUs are not added later here" },
	{ "-smp 4,clusters=2", "-smp: this machine has no clusters; sockets, dies, cores" },
	{ "-M microvm -smp 4,dies=2", "-smp: this machine has no dies; sockets, cores" },
	{ "-M pc", "-machine: no machine 'pc'; there are: microvm, q35, pc-q35-7.2" },
	{ "-M q35,foo=1", "-machine q35: property 'foo' is not known; there are: type, accel" },
	{ "-M q35,usb=on", "-machine q35: property 'usb': 'on' is not one of off" },
	{ "-M q35,kernel_irqchip=maybe",
	  "-machine q35: property 'kernel-irqchip': 'maybe' is not" },
	{ "-M microvm,vmport=off", "-machine microvm: property 'vmport' is not known" },
	{ "-M accel=xen", "-machine accel=: no accelerator 'xen'; there are: kvm" },
	{ "-accel xen", "-accel: no accelerator 'xen'; there are: kvm" },
	{ "-accel kvm,foo=1", "-accel: property 'foo' is not known; there are: kernel-irqchip" },
	{ "-accel kvm -M accel=kvm", "-accel: -machine accel=kvm says something else already" },
	{ "-accel kvm -enable-kvm", "-accel: -machine accel=kvm says something else already" },
	{ "-M memory-backend=m", "-machine memory-backend=m: there is no -object memory-backend" },
	{ "-M memory-backend=r -object rng-random,id=r", "-machine memory-backend=r: there is no" },
	{ "-m 1 -M memory-backend=m -object memory-backend-ram,id=m,size=2M",
	  "-m: 1048576 bytes, but memory-backend 'm' has 2097152" },
	{ "-cpu foo", "-cpu: no CPU model 'foo'; there are: host, max, qemu64, kvm64" },
	{ "-cpu host,foo", "-cpu: no CPU feature or property 'foo'" },
	{ "-cpu host,+foo", "-cpu: no CPU feature or property 'foo'" },
	{ "-cpu host,-foo", "-cpu: no CPU feature or property 'foo'" },
	{ "-cpu host,avx=maybe", "-cpu: avx: 'maybe' is neither on nor off" },
	{ "-cpu host,", "-cpu: no CPU feature or property ''" },
	{ "-boot foo", "-boot: 'foo' is not a boot order" },
	{ "-boot z", "-boot: 'z' is not a boot order" },
	{ "-boot splash=x", "-boot: property 'splash' is not known" },
	{ "-name guest=a,foo=b", "-name: property 'foo' is not known" },
	{ "-uuid x", "-uuid: 'x' is not a UUID" },
	{ "-uuid 550e8400-e29b-41d4-a716-4466554400000", "-uuid: '550e8400-" },
	{ "-uuid 550e8400-e29b-41d4-a716-44665544000", "-uuid: '550e8400-" },
	{ "-rtc utc", "-rtc: property 'utc' is not known" },
	{ "-rtc base=yesterday", "-rtc: base=yesterday: write utc, localtime, 2006-06-17 or" },
	{ "-rtc clock=rt", "-rtc: property 'clock': 'rt' is not one of host, vm" },
	{ "-rtc driftfix=slew", "-rtc: property 'driftfix': 'slew' is not one of none" },
	{ "-display gtk", "-display: no display 'gtk'; there is: none" },
	{ "-sandbox foo", "-sandbox: property 'enable': 'foo' is neither on nor off" },
	{ "-sandbox on,spawn=foo", "-sandbox: property 'spawn': 'foo' is not one of allow, deny" },
	{ "-d foo", "-d: no log item 'foo'; there are: all, guest_errors, unimp" },
	{ "-add-fd set=1", "-add-fd: property 'fd' is missing" },
	{ "-add-fd fd=3", "-add-fd: property 'set' is missing" },
	{ "-add-fd fd=2,set=1", "-add-fd: fd=2 is a standard stream; from 3 on is possible" },
	{ "-device foo", "-device foo: no such device; there are: isa-debug-exit" },
	{ "-device id=x", "-device: property 'driver' is missing" },
	{ "-device virtio-rng-pci,foo=1", "-device virtio-rng-pci: property 'foo' is not known" },
	{ "-device virtio-rng-pci,addr=20", "-device virtio-rng-pci: property 'addr': '20' is" },
	{ "-device virtio-rng-pci,id=1", "-device virtio-rng-pci: '1' is not an id; letters" },
	{ "-device virtio-rng-pci,id=a -device virtio-rng-pci,id=a",
	  "-device virtio-rng-pci: there is already one with id 'a'" },
	{ "-device virtio-rng-pci,rng=x",
	  "-device virtio-rng-pci: rng=x: there is no -object rng" },
	{ "-object iothread,id=x -device virtio-rng-pci,rng=x",
	  "-device virtio-rng-pci: rng=x: there is no -object rng-... of that id; there are: "
	  "none" },
	{ "-drive file=f,if=none,id=a -device virtio-blk-pci,drive=b",
	  "-device virtio-blk-pci: drive=b: there is no -drive or -blockdev of that id; there "
	  "are: a" },
	{ "-device virtio-net-pci,netdev=n", "-device virtio-net-pci: netdev=n: there is no" },
	{ "-device virtio-blk-pci", "-device virtio-blk-pci: property 'drive' is missing" },
	{ "-M microvm,pcie=off -device virtio-rng-pci",
	  "-device virtio-rng-pci: the machine has no PCI with pcie=off" },
	{ "-device {\"driver\":\"virtio-rng-pci\"", "-device: not a JSON object: it goes wrong" },
	{ "-device {\"driver\":\"virtio-rng-pci\"}x", "-device: not a JSON object: it goes wrong" },
	{ "-device {\"driver\":5}", "-device: property 'driver' is missing" },
	{ "-device {\"driver\":null}", "-device: property 'driver' is missing" },
	{ "-device {}", "-device: property 'driver' is missing" },
	{ "-device {\"driver\":\"virtio-rng-pci\",\"period\":true}",
	  "-device virtio-rng-pci: property 'period': 'on' is not a number" },
	{ "-object foo,id=a", "-object foo: no such object; there are: iothread, memory-backend" },
	{ "-object rng-random", "-object rng-random: property 'id' is missing" },
	{ "-object memory-backend-ram,id=m", "-object memory-backend-ram: property 'size' is" },
	{ "-object iothread,id=a -object rng-builtin,id=a",
	  "-object rng-builtin: there is already one with id 'a'" },
	{ "-object memory-backend-ram,id=m,size=1M,hugetlb=on",
	  "-object memory-backend-ram: property 'hugetlb' is not known" },
	{ "-drive id=a", "-drive: property 'file' is missing" },
	{ "-drive file=f,if=scsi", "-drive: property 'if': 'scsi' is not one of none, virtio" },
	{ "-drive file=f,foo=1", "-drive: property 'foo' is not known" },
	{ "-drive file=f,id=9", "-drive: '9' is not an id" },
	{ "-drive file=f,index=64", "-drive: index=64; from 0 to 63 is possible" },
	{ "-drive file=f,index=0 -drive file=g,index=0",
	  "-drive: there is already a disk with index=0" },
	{ "-hda a -hda b", "-hda: there is already a disk with index=0" },
	{ "-drive file=f,if=none,id=a -drive file=g,id=a,if=none",
	  "-drive: there is already one with id 'a'" },
	{ "-blockdev node-name=n", "-blockdev: property 'driver' is missing" },
	{ "-blockdev raw,filename=f", "-blockdev: property 'node-name' is missing" },
	{ "-netdev foo,id=n", "-netdev foo: no such network end; there are: " },
	{ "-netdev user", "-netdev user: property 'id' is missing" },
	{ "-netdev id=n", "-netdev: property 'type' is missing" },
	{ "-netdev user,id=n -netdev user,id=n", "-netdev user: there is already one with id 'n'" },
	{ "-nic foo", "-nic foo: no such network end; there are: " },
	{ "-nic user,model=e1000",
	  "-nic user: property 'model': 'e1000' is not one of virtio-net" },
	{ "-nic user,mac=1", "-nic user: property 'mac': '1' is not a MAC address" },
	{ "-net nic", "-net: only 'none' is supported; -nic TYPE" },
	{ "-chardev foo,id=c", "-chardev foo: no such character device; there are: " },
	{ "-chardev null", "-chardev null: property 'id' is missing" },
	{ "-chardev null,id=c -chardev null,id=c", "-chardev null: there is already one with id" },
	{ "-serial foo", "-serial: 'foo' is not a character device" },
	{ "-serial chardev:c", "-serial: no chardev 'c'; there are: none" },
	{ "-serial null -serial null -serial null -serial null -serial null",
	  "-serial: more than 4 serial ports" },
	{ "-M microvm,isa-serial=off -serial null", "-serial: the machine has no serial port" },
	{ "-monitor foo", "-monitor: 'foo' is not a character device" },
	{ "-monitor mon:stdio", "-monitor: 'mon:stdio': mon: is for -serial" },
	{ "-qmp none", "-qmp: 'none' is not a character device" },
	{ "-qmp chardev:q", "-qmp: no chardev 'q'" },
	{ "-monitor chardev:q", "-monitor: no chardev 'q'" },
	{ "-mon foo", "-mon: no chardev 'foo'; there are: serial0" },
	{ "-chardev null,id=c -mon c,mode=foo", "-mon: property 'mode': 'foo' is not one of" },
	{ "-nographic -daemonize", "-nographic: with -daemonize there is no terminal" },
	{ "-kernel k -daemonize -serial stdio", "-chardev serial0: no stdio with -daemonize" },
};

static void test_refused(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
		bool kernel = *refused[i].line && !strstr(refused[i].line, "-append") &&
			      !strstr(refused[i].line, "-initrd") &&
			      !strstr(refused[i].line, "-kernel") && strcmp(refused[i].line, "-S");
		char *line AUTO_FREE = xasprintf("%s%s", kernel ? "-kernel k -display none " : "",
						 refused[i].line);
		struct error *err ERROR_AUTO = NULL;
		struct description *desc;
		bool done;

		if (parse(line, &desc, &done, &err) == 0)
			fail_msg("%s: accepted", line);
		assert_null(desc);
		if (strncmp(error_message(err), refused[i].message, strlen(refused[i].message)))
			fail_msg("%s: %s", line, error_message(err));
		assert_null(strchr(error_message(err), '\n'));
	}
}

/* --- What is accepted and says nothing new ---- */

static const char *const harmless[] = {
	"-M q35,usb=off,vmport=off,dump-guest-core=off,mem_merge=off,smm=off,hpet=off",
	"-M pc-q35-7.2,graphics=off,kernel_irqchip=on,pic=on,pit=on,nvdimm=off",
	"-machine type=q35,accel=kvm:tcg",
	"-M microvm,x-option-roms=off,auto-kernel-cmdline=on,rtc=auto,acpi=auto",
	"-accel kvm,kernel-irqchip=on",
	"-M q35,kernel-irqchip=split,hpet=on",
	"-accel kvm,kernel-irqchip=off",
	"-no-user-config -nodefaults -no-hpet",
	"--no-user-config --nodefaults",
	"-nic none -net none",
	"-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	"-boot order=cdn,once=d,menu=on,strict=on",
	"-monitor none",
	"-serial none",
};

static void test_harmless(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(harmless); i++)
		description_free(machine(harmless[i]));
}

/* --- What words come to ---- */

static void test_defaults(void **state)
{
	struct description *d = machine("");

	assert_int_equal(d->action, DESC_RUN);
	assert_string_equal(d->machine.name, "pc-q35-7.2");
	assert_int_equal(d->machine.type, MACHINE_Q35);
	assert_true(d->machine.acpi && d->machine.pcie && d->machine.rtc && d->machine.i8042);
	assert_int_equal(d->accel.n, 0);
	assert_int_equal(d->memory.size, 128 * MIB);
	assert_true(d->memory.merge && d->memory.dump);
	assert_false(d->memory.shared || d->memory.prealloc);
	assert_int_equal(d->smp.cpus, 1);
	assert_string_equal(d->cpu.model->name, "host");
	assert_true(d->sandbox);
	assert_false(d->stopped || d->no_reboot || d->daemonize);
	assert_int_equal(d->devices.n, 0);
	assert_int_equal(d->n_serials, 1);
	assert_string_equal(d->chardevs.items[0].chardev->name, "null");
	assert_int_equal(d->n_monitors, 0);
	assert_int_equal(d->n_notes, 1);
	description_free(d);

	d = machine("-display none");
	assert_int_equal(d->n_notes, 0);
	assert_int_equal(d->n_serials, 1);
	description_free(d);

	d = machine("-nodefaults");
	assert_int_equal(d->n_notes, 0);
	assert_int_equal(d->n_serials, 0);
	description_free(d);
}

static void test_flags(void **state)
{
	struct description *d = machine("-S -no-reboot -no-shutdown --daemonize -pidfile p -D log "
					"-display none -sandbox off -d guest_errors,unimp");

	assert_true(d->stopped && d->no_reboot && d->no_shutdown && d->daemonize);
	assert_false(d->sandbox);
	assert_string_equal(d->pidfile, "p");
	assert_string_equal(d->log_file, "log");
	assert_int_equal(d->log_items, LOG_GUEST_ERRORS | LOG_UNIMP);
	description_free(d);

	d = accept("--kernel k -append a~b,,c -initrd i");
	assert_string_equal(d->kernel, "k");
	assert_string_equal(d->append, "a b,,c");
	assert_string_equal(d->initrd, "i");
	description_free(d);

	d = accept("-x-calibrate");
	assert_int_equal(d->action, DESC_CALIBRATE);
	description_free(d);
	d = accept("-x-dump-config");
	assert_int_equal(d->action, DESC_DUMP_CONFIG);
	description_free(d);
}

static void test_machine(void **state)
{
	struct description *d = machine("-M microvm -M acpi=off -m 512 -m 1.5G");

	assert_int_equal(d->machine.type, MACHINE_MICROVM);
	assert_false(d->machine.acpi || d->machine.rtc || d->machine.i8042);
	assert_true(d->machine.pcie);
	assert_int_equal(d->memory.size, 1536 * MIB);
	description_free(d);

	d = machine("-M microvm,rtc=on,isa-serial=off,pcie=off -no-acpi");
	assert_true(d->machine.rtc);
	assert_false(d->machine.acpi || d->machine.pcie);
	assert_int_equal(d->n_serials, 0);
	description_free(d);

	d = machine("-M q35,i8042=off -enable-kvm -m 2000001b");
	assert_false(d->machine.i8042);
	assert_int_equal(d->accel.n, 1);
	assert_string_equal(d->accel.names[0], "kvm");
	assert_int_equal(d->memory.size, 245 * 8192);
	description_free(d);

	d = machine("-m 4097K");
	assert_int_equal(d->memory.size, 4104 * KIB);
	description_free(d);
}

static void test_memory_backend(void **state)
{
	struct description *d =
		machine("-object memory-backend-memfd,id=m,size=1G,prealloc=on,merge=off,"
			"hugetlb=on,hugetlbsize=2M -M q35,memory-backend=m,dump-guest-core=off");

	assert_string_equal(d->memory.backend, "m");
	assert_int_equal(d->memory.size, GIB);
	assert_true(d->memory.shared && d->memory.prealloc && d->memory.hugepages);
	assert_false(d->memory.merge || d->memory.dump);
	assert_int_equal(d->memory.hugepage_size, 2 * MIB);
	description_free(d);

	d = machine("-m 64 -M memory-backend=m "
		    "-object {\"qom-type\":\"memory-backend-ram\",\"id\":\"m\",\"size\":67108864}");
	assert_false(d->memory.shared);
	assert_int_equal(d->memory.size, 64 * MIB);
	description_free(d);
}

/* The numbers are what QEMU 7.2 comes to (query-hotpluggable-cpus). */
static const struct {
	const char *words;
	unsigned cpus, sockets, dies, cores, threads;
} topologies[] = {
	{ "4", 4, 1, 1, 4, 1 },
	{ "cpus=4", 4, 1, 1, 4, 1 },
	{ "0", 1, 1, 1, 1, 1 },
	{ "64", 64, 1, 1, 64, 1 },
	{ "4,sockets=2", 4, 2, 1, 2, 1 },
	{ "4,sockets=0", 4, 1, 1, 4, 1 },
	{ "8,cores=2", 8, 4, 1, 2, 1 },
	{ "8,threads=2", 8, 1, 1, 4, 2 },
	{ "8,sockets=2,cores=2", 8, 2, 1, 2, 2 },
	{ "8,sockets=1,dies=2,cores=2,threads=2", 8, 1, 2, 2, 2 },
	{ "sockets=2,cores=3", 6, 2, 1, 3, 1 },
	{ "maxcpus=4", 4, 1, 1, 4, 1 },
	{ "4,maxcpus=4,clusters=1", 4, 1, 1, 4, 1 },
	{ "0x4", 4, 1, 1, 4, 1 },
};

static void test_smp(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(topologies); i++) {
		char *line AUTO_FREE = xasprintf("-smp %s", topologies[i].words);
		struct description *d = machine(line);

		assert_int_equal(d->smp.cpus, topologies[i].cpus);
		assert_int_equal(d->smp.sockets, topologies[i].sockets);
		assert_int_equal(d->smp.dies, topologies[i].dies);
		assert_int_equal(d->smp.cores, topologies[i].cores);
		assert_int_equal(d->smp.threads, topologies[i].threads);
		description_free(d);
	}
	struct description *d = machine("-smp 4 -smp cores=2");

	assert_int_equal(d->smp.sockets, 2);
	description_free(d);
}

static void test_cpu(void **state)
{
	struct description *d = machine(
		"-cpu max,-avx,avx=on,+sse4_1,xd=off,kvm=off,migratable=no,enforce,pmu=off");

	assert_string_equal(d->cpu.model->name, "max");
	assert_true(d->cpu.off[CPU_1_ECX] & 1u << 28);
	assert_false(d->cpu.on[CPU_1_ECX] & 1u << 28);
	assert_true(d->cpu.on[CPU_1_ECX] & 1u << 19);
	assert_true(d->cpu.off[CPU_80000001_EDX] & 1u << 20);
	assert_false(d->cpu.kvm || d->cpu.migratable || d->cpu.pmu);
	assert_true(d->cpu.enforce && d->cpu.check);
	description_free(d);

	d = machine("-cpu qemu64,-kvmclock");
	assert_int_equal(d->cpu.off[CPU_KVM_EAX], 1u << 0 | 1u << 3);
	assert_false(d->cpu.pmu);
	description_free(d);
}

static void test_identity(void **state)
{
	static const uint8_t uuid[] = { 0x55, 0x0e, 0x84, 0x00, 0xe2, 0x9b, 0x41, 0xd4,
					0xa7, 0x16, 0x44, 0x66, 0x55, 0x44, 0x00, 0xEF };
	struct description *d = machine("-name my~vm,process=p,debug-threads=on "
					"-uuid 550e8400-e29b-41d4-a716-4466554400eF "
					"-rtc base=2006-06-17T16:01:21,clock=vm "
					"-boot dc,menu=on,strict=on");

	assert_string_equal(d->name.guest, "my vm");
	assert_string_equal(d->name.process, "p");
	assert_true(d->name.debug_threads && d->has_uuid && d->rtc.vm_clock);
	assert_memory_equal(d->uuid, uuid, 16);
	assert_int_equal(d->rtc.base, RTC_DATE);
	assert_int_equal(d->rtc.date, 1150560081);
	assert_string_equal(d->boot.order, "dc");
	assert_true(d->boot.menu && d->boot.strict);
	description_free(d);

	d = machine("-rtc base=localtime");
	assert_int_equal(d->rtc.base, RTC_LOCALTIME);
	description_free(d);
	d = machine("-rtc base=2006-06-17");
	assert_int_equal(d->rtc.date, 1150502400);
	description_free(d);
}

static void test_nographic(void **state)
{
	struct description *d = machine("-nographic");

	assert_int_equal(d->n_serials, 1);
	assert_string_equal(d->serials[0], "serial0");
	assert_string_equal(d->chardevs.items[0].chardev->name, "stdio");
	assert_true(props_bool(d->chardevs.items[0].props, "mux"));
	assert_false(props_bool(d->chardevs.items[0].props, "signal"));
	assert_int_equal(d->n_monitors, 1);
	assert_string_equal(d->monitors[0].chardev, "serial0");
	assert_false(d->monitors[0].control);
	assert_int_equal(d->n_notes, 0);
	description_free(d);

	d = machine("-nographic -monitor none");
	assert_false(props_bool(d->chardevs.items[0].props, "mux"));
	assert_int_equal(d->n_monitors, 0);
	description_free(d);

	d = machine("-nographic -serial null");
	assert_int_equal(d->chardevs.n, 2);
	assert_string_equal(d->serials[0], "serial0");
	assert_string_equal(d->monitors[0].chardev, "compat_monitor0");
	description_free(d);

	d = machine("-nographic -nodefaults -serial mon:stdio");
	assert_int_equal(d->chardevs.n, 1);
	assert_int_equal(d->n_monitors, 1);
	description_free(d);

	d = machine("-nographic -serial mon:stdio");
	assert_int_equal(d->chardevs.n, 1);
	assert_int_equal(d->n_monitors, 1);
	description_free(d);

	d = machine("-nographic -chardev null,id=c -device isa-serial,chardev=c -qmp null");
	assert_int_equal(d->n_serials, 0);
	assert_int_equal(d->n_monitors, 1);
	description_free(d);
}

static void test_monitors(void **state)
{
	struct description *d = machine(
		"-chardev socket,id=c,path=/s,server=on,wait=off -mon c,mode=control,pretty "
		"-qmp unix:/q,server,nowait -qmp-pretty null -monitor chardev:m "
		"-chardev null,id=m -serial chardev:m -serial none -serial file:f,x");

	assert_int_equal(d->n_monitors, 4);
	assert_true(d->monitors[0].control && d->monitors[0].pretty);
	assert_string_equal(d->monitors[1].id, "compat_monitor0");
	assert_string_equal(prop(desc_find(&d->chardevs, "compat_monitor0"), "path"), "/q");
	assert_true(d->monitors[1].control && d->monitors[2].pretty);
	assert_string_equal(d->monitors[3].chardev, "m");
	assert_false(d->monitors[3].control);
	assert_int_equal(d->n_serials, 2);
	assert_string_equal(d->serials[0], "m");
	assert_string_equal(d->serials[1], "serial1");
	assert_string_equal(prop(desc_find(&d->chardevs, "serial1"), "path"), "f,x");
	description_free(d);
}

static void test_gdb(void **state)
{
	struct description *d = machine("-s -gdb none");
	const struct desc_item *chr = desc_find(&d->chardevs, "gdb");

	assert_string_equal(d->gdb, "gdb");
	assert_string_equal(prop(chr, "host"), "");
	assert_string_equal(prop(chr, "port"), "1234");
	assert_true(props_bool(chr->props, "server") && props_bool(chr->props, "nodelay"));
	assert_false(props_bool(chr->props, "wait"));
	description_free(d);

	d = machine("-gdb unix:/g,server=on,wait=off");
	assert_string_equal(prop(desc_find(&d->chardevs, "gdb"), "path"), "/g");
	description_free(d);

	d = machine("-chardev null,id=g -gdb chardev:g");
	assert_string_equal(d->gdb, "g");
	description_free(d);

	d = machine("-gdb none");
	assert_null(d->gdb);
	description_free(d);
}

static void test_disk_order(void **state)
{
	struct description *d =
		machine("-hdb b.img -drive file=v.img,if=virtio,index=2 -hda a,b.img "
			"-drive file=n.img,if=none -device virtio-rng "
			"-blockdev driver=raw,node-name=r,file.driver=file,file.filename=r.img "
			"-device {\"driver\":\"virtio-blk-pci\",\"drive\":\"r\",\"addr\":\"3.1\"} "
			"-nic user,id=u");
	const struct desc_item *devices = d->devices.items;
	unsigned slot, function;

	assert_int_equal(d->drives.n, 5);
	assert_int_equal(d->devices.n, 6);
	assert_string_equal(devices[0].device->name, "virtio-net-pci");
	assert_string_equal(prop(&devices[0], "netdev"), "u");
	assert_string_equal(devices[1].device->name, "virtio-rng-pci");
	assert_string_equal(prop(&devices[2], "drive"), "r");
	assert_true(props_addr(devices[2].props, "addr", &slot, &function));
	assert_int_equal(slot << 3 | function, 3 << 3 | 1);
	assert_string_equal(prop(&devices[3], "drive"), "ide0-hd0");
	assert_string_equal(prop(desc_find(&d->drives, "ide0-hd0"), "file"), "a,b.img");
	assert_string_equal(prop(&devices[4], "drive"), "ide1-hd0");
	assert_string_equal(prop(&devices[5], "drive"), "virtio2");
	assert_string_equal(prop(desc_find(&d->drives, "none0"), "file"), "n.img");
	assert_string_equal(prop(desc_find(&d->drives, "r"), "filename"), "r.img");
	description_free(d);
}

static void test_network(void **state)
{
	struct description *d = machine("-netdev tap,id=t,ifname=tap0,script=no "
					"-device virtio-net,netdev=t,id=n,disable-legacy=on "
					"-nic tap,ifname=tap1,script=no,mac=52:54:00:00:00:01");
	uint8_t mac[6];

	assert_int_equal(d->netdevs.n, 2);
	assert_string_equal(d->netdevs.items[0].netdev->name, "tap");
	assert_string_equal(d->netdevs.items[1].id, "__org.qemu.nic0");
	assert_string_equal(prop(&d->netdevs.items[1], "ifname"), "tap1");
	assert_true(props_mac(d->devices.items[0].props, "mac", mac));
	assert_int_equal(mac[5], 1);
	assert_string_equal(d->devices.items[1].id, "n");
	description_free(d);

	d = machine("-netdev {\"type\":\"stream\",\"id\":\"s\",\"addr\":{\"type\":\"unix\","
		    "\"path\":\"/p\"}} -netdev stream,id=t,addr.type=unix,addr.path=/q");
	assert_string_equal(prop(&d->netdevs.items[0], "addr.path"), "/p");
	assert_string_equal(prop(&d->netdevs.items[1], "addr.path"), "/q");
	description_free(d);
}

static void test_fds(void **state)
{
	struct description *d = machine("-add-fd fd=3,set=1,opaque=a -add-fd fd=4,set=1");

	assert_int_equal(d->n_fds, 2);
	assert_int_equal(d->fds[0].fd, 3);
	assert_string_equal(d->fds[0].opaque, "a");
	assert_int_equal(d->fds[1].set, 1);
	assert_null(d->fds[1].opaque);
	description_free(d);
}

static void test_json(void **state)
{
	struct description *d =
		machine("-nographic -hda a -nic user -cpu host,-avx,+aes -rtc base=2006-06-17 "
			"-uuid 550e8400-e29b-41d4-a716-446655440000 -object rng-builtin,id=r "
			"-add-fd fd=3,set=0 -d all -device virtio-rng-pci,rng=r");
	struct json_object *o = description_to_json(d), *member;

	assert_true(json_object_object_get_ex(o, "uuid", &member));
	assert_string_equal(json_object_get_string(member), "550e8400-e29b-41d4-a716-446655440000");
	assert_true(json_object_object_get_ex(o, "devices", &member));
	assert_int_equal(json_object_array_length(member), 3);
	json_object_put(o);
	description_free(d);
}

/* --- Help: printed, and nothing else ---- */

static const char *const help[] = {
	"-h",
	"-help",
	"--help",
	"-version",
	"-machine help",
	"-M q35,help",
	"-M microvm,help",
	"-accel help",
	"-cpu help",
	"-cpu ?",
	"-d help",
	"-device help",
	"-device ?",
	"-device virtio-net-pci,help",
	"-object help",
	"-object memory-backend-memfd,help",
	"-chardev help",
	"-chardev socket,help",
	"-netdev help",
	"-netdev tap,help",
	"-nic help",
	"-nic user,help",
	"-drive help",
	"-blockdev help",
	"-h -foo",
};

/* Runs with standard output in a file, whose content is in text afterwards. */
static void help_of(const char *line, char *text, size_t size)
{
	FILE *file = tmpfile();
	struct description *desc;
	struct error *err = NULL;
	bool done;
	int out, r;
	size_t n;

	fflush(stdout);
	out = dup(STDOUT_FILENO);
	dup2(fileno(file), STDOUT_FILENO);
	r = parse(line, &desc, &done, &err);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	close(out);
	rewind(file);
	n = fread(text, 1, size - 1, file);
	text[n] = '\0';
	fclose(file);
	if (r < 0 || !done || desc)
		fail_msg("%s: %s", line, error_message(err));
}

static void test_help(void **state)
{
	char text[16384];

	for (unsigned i = 0; i < ARRAY_SIZE(help); i++) {
		help_of(help[i], text, sizeof(text));
		assert_true(strlen(text) > 20);
	}
	help_of("-version", text, sizeof(text));
	assert_ptr_equal(strstr(text, "QEMU emulator version 7.2.0 (revirter "), text);
	help_of("-device help", text, sizeof(text));
	assert_non_null(strstr(text, "name \"virtio-blk-pci\", bus PCI"));
	help_of("-device virtio-blk-pci,help", text, sizeof(text));
	assert_non_null(strstr(text, "vectors=<number>"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused),    cmocka_unit_test(test_harmless),
		cmocka_unit_test(test_defaults),   cmocka_unit_test(test_flags),
		cmocka_unit_test(test_machine),    cmocka_unit_test(test_memory_backend),
		cmocka_unit_test(test_smp),        cmocka_unit_test(test_cpu),
		cmocka_unit_test(test_identity),   cmocka_unit_test(test_nographic),
		cmocka_unit_test(test_monitors),   cmocka_unit_test(test_gdb),
		cmocka_unit_test(test_disk_order), cmocka_unit_test(test_network),
		cmocka_unit_test(test_fds),        cmocka_unit_test(test_json),
		cmocka_unit_test(test_help),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
