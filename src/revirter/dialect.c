/*
 * argv to description: see dialect.h; the table of options and the walk over argv.
 *
 * Each option of QEMU's that means something here is a row of dialect_options[]; those that people
 * and programs know from QEMU, and that are not here, are rows of outside[], which say what is here
 * instead. After the walk, the finish_* functions read what was collected and check what refers to
 * what.
 */
#include "revirter/dialect.h"

#include "base/error.h"
#include "base/util.h"
#include "revirter/dialect_internal.h"

#include <string.h>

#define FLAG(field)   .kind = OPTION_FLAG, .offset = offsetof(struct description, field)
#define STRING(field) .kind = OPTION_STRING, .offset = offsetof(struct description, field)
#define LAST(field)   .kind = OPTION_LAST, .offset = offsetof(struct dialect, field)
#define COLLECT(field, key) \
	.kind = OPTION_COLLECT, .offset = offsetof(struct dialect, field), .implied = (key)

const struct option dialect_options[] = {
	{ "machine", "TYPE[,PROP=VALUE,...]", GROUP_MACHINE, COLLECT(machine, "type"),
	  .help = "q35 or microvm (-machine help; -machine TYPE,help)" },
	{ "M", "TYPE[,PROP=VALUE,...]", GROUP_MACHINE, COLLECT(machine, "type") },
	{ "accel", "NAME", GROUP_MACHINE, .call = option_accel,
	  .help = "what runs the guest's code; several are tried in order (-accel help)" },
	{ "enable-kvm", NULL, GROUP_MACHINE, .call = option_enable_kvm,
	  .help = "the same as -accel kvm" },
	{ "cpu", "MODEL[,+FEATURE][,-FEATURE][,PROP=VALUE,...]", GROUP_MACHINE, .call = option_cpu,
	  .help = "processor (default: host; -cpu help)" },
	{ "m", "SIZE", GROUP_MACHINE, COLLECT(memory, "size"),
	  .help = "memory: 512 is MiB, 2G is GiB (default: 128)" },
	{ "smp", "N[,sockets=N][,dies=N][,cores=N][,threads=N]", GROUP_MACHINE,
	  COLLECT(smp, "cpus"), .help = "processors, 1 to 64 (default: 1)" },
	{ "rtc", "base=utc|localtime|DATE[,clock=host|vm]", GROUP_MACHINE, COLLECT(rtc, NULL),
	  .help = "what the guest's clock shows at start" },
	{ "name", "NAME[,process=NAME][,debug-threads=on|off]", GROUP_MACHINE,
	  COLLECT(name, "guest"), .help = "the guest's name, the process's" },
	{ "uuid", "UUID", GROUP_MACHINE, LAST(uuid), .help = "the machine's UUID" },
	{ "no-acpi", NULL, GROUP_MACHINE, .call = option_no_acpi,
	  .help = "the same as -machine acpi=off" },
	{ "no-hpet", NULL, GROUP_MACHINE, .call = option_no_hpet,
	  .help = "the same as -machine hpet=off" },

	{ "kernel", "FILE", GROUP_BOOT, STRING(kernel),
	  .help = "Linux (bzImage, or vmlinux with PVH), or an ELF multiboot kernel" },
	{ "initrd", "FILE", GROUP_BOOT, STRING(initrd),
	  .help = "initial RAM disk; multiboot: modules, FILE ARGUMENTS,..." },
	{ "append", "TEXT", GROUP_BOOT, STRING(append), .help = "the kernel's command line" },
	{ "boot", "[order=]DRIVES[,menu=on|off][,strict=on|off]", GROUP_BOOT,
	  COLLECT(boot, "order"), .help = "for firmware; without meaning when -kernel boots" },
	{ "no-reboot", NULL, GROUP_BOOT, FLAG(no_reboot), .help = "end when the guest resets" },
	{ "no-shutdown", NULL, GROUP_BOOT, FLAG(no_shutdown),
	  .help = "pause when the guest powers off" },
	{ "S", NULL, GROUP_BOOT, FLAG(stopped), .help = "start paused" },
	{ "gdb", "DEV", GROUP_BOOT, .call = option_gdb,
	  .help = "serve gdb there: tcp:[H]:P, unix:F,server=on,wait=off, chardev:ID, none" },
	{ "s", NULL, GROUP_BOOT, .call = option_s, .help = "the same as -gdb tcp::1234" },

	{ "drive", "file=FILE[,format=raw][,if=none|virtio][,PROP=VALUE,...]", GROUP_DISKS,
	  .call = option_drive, .help = "an image, and without if=none a disk (-drive help)" },
	{ "hda", "FILE", GROUP_DISKS, .call = option_hda, .help = "a first disk" },
	{ "hdb", "FILE", GROUP_DISKS, .call = option_hdb, .help = "a second disk" },
	{ "blockdev", "DRIVER,node-name=NAME[,PROP=VALUE,...] or JSON", GROUP_DISKS,
	  .call = option_blockdev, .help = "an image" },

	{ "nic", "TYPE[,mac=MAC][,PROP=VALUE,...]", GROUP_NETWORK, .call = option_nic,
	  .help = "a NIC, and the end on the host it is connected to; or none" },
	{ "netdev", "TYPE,id=ID[,PROP=VALUE,...] or JSON", GROUP_NETWORK, .call = option_netdev,
	  .help = "an end on the host (-netdev help; -netdev TYPE,help)" },
	{ "net", "none", GROUP_NETWORK, .call = option_net },

	{ "nographic", NULL, GROUP_CHARDEV, FLAG(nographic),
	  .help = "serial port and monitor on this terminal; Ctrl-A h tells its keys" },
	{ "serial", "DEV", GROUP_CHARDEV, .call = option_serial,
	  .help = "a serial port: stdio, mon:stdio, pty, file:F, unix:F, tcp:H:P, chardev:ID, "
		  "none" },
	{ "monitor", "DEV", GROUP_CHARDEV, .call = option_monitor, .help = "a monitor for people" },
	{ "qmp", "DEV", GROUP_CHARDEV, .call = option_qmp, .help = "a monitor for programs" },
	{ "qmp-pretty", "DEV", GROUP_CHARDEV, .call = option_qmp_pretty,
	  .help = "the same, indented" },
	{ "mon", "CHARDEV[,mode=readline|control][,pretty=on|off]", GROUP_CHARDEV,
	  .call = option_mon, .help = "a monitor on a -chardev" },
	{ "chardev", "BACKEND,id=ID[,PROP=VALUE,...]", GROUP_CHARDEV, .call = option_chardev,
	  .help = "a character device (-chardev help; -chardev BACKEND,help)" },
	{ "display", "none", GROUP_CHARDEV, LAST(display), .help = "there is no screen" },

	{ "device", "NAME[,PROP=VALUE,...] or JSON", GROUP_DEVICES, .call = option_device,
	  .help = "a device (-device help; -device NAME,help)" },
	{ "object", "TYPE,id=ID[,PROP=VALUE,...] or JSON", GROUP_DEVICES, .call = option_object,
	  .help = "what devices stand on (-object help; -object TYPE,help)" },
	{ "nodefaults", NULL, GROUP_DEVICES, FLAG(nodefaults),
	  .help = "no serial port or monitor that was not asked for" },
	{ "no-user-config", NULL, GROUP_DEVICES, OPTION_NOTHING,
	  .help = "read no configuration files: always so" },

	{ "daemonize", NULL, GROUP_PROCESS, FLAG(daemonize), .help = "go to the background" },
	{ "pidfile", "FILE", GROUP_PROCESS, STRING(pidfile), .help = "where to write the PID" },
	{ "sandbox", "on|off", GROUP_PROCESS, COLLECT(sandbox, "enable"),
	  .help = "lock the process in (default: on; off is for debugging)" },
	{ "add-fd", "fd=FD,set=N[,opaque=TEXT]", GROUP_PROCESS, .call = option_add_fd,
	  .help = "an open file, to be named /dev/fdset/N" },
	{ "d", "ITEM,...", GROUP_PROCESS, .call = option_log_items,
	  .help = "log these too (-d help)" },
	{ "D", "FILE", GROUP_PROCESS, STRING(log_file), .help = "log to this file" },
	{ "x-dump-config", NULL, GROUP_PROCESS, .call = option_dump_config,
	  .help = "print what all this means, as JSON, and end" },
	{ "x-sandbox-trap", NULL, GROUP_PROCESS, FLAG(sandbox_trap),
	  .help = "report a forbidden system call before ending because of it" },
	{ "x-calibrate", NULL, GROUP_PROCESS, .call = option_calibrate,
	  .help = "tell how fast accelerators are; status 0 if KVM is at full speed" },
	{ "version", NULL, GROUP_PROCESS, .call = option_version, .help = "print the version" },
	{ "h", NULL, GROUP_PROCESS, .call = option_help, .help = "print this" },
	{ "help", NULL, GROUP_PROCESS, .call = option_help },
	{},
};

/* Options of QEMU that are not here, by what they are about. */
static const struct {
	const char *names; /* each between spaces */
	const char *instead;
} outside[] = {
	{ " cdrom hdc hdd fda fdb sd mtdblock pflash snapshot ",
	  "disks are -hda, -hdb, -drive and -blockdev" },
	{ " bios L option-rom fw_cfg smbios acpitable dtb ",
	  "there is no firmware; -kernel boots a kernel directly" },
	{ " vnc spice vga full-screen k curses sdl gtk alt-grab ctrl-grab ",
	  "there is no screen; -nographic gives the serial port, -display none nothing" },
	{ " usb usbdevice audio audiodev audio-help soundhw parallel tpmdev debugcon watchdog ",
	  "-device help lists what devices there are" },
	{ " virtfs fsdev ", "files are not shared with the host yet; use a disk" },
	{ " mem-path mem-prealloc numa ", "memory is -m, or -object memory-backend-memfd" },
	{ " singlestep trace icount plugin ", "for debugging there are -gdb, and -d (-d help)" },
	{ " incoming loadvm only-migratable dump-vmstate ", "there is no migration" },
	{ " readconfig writeconfig set global ", "properties are set where the device is named" },
	{ " runas chroot ", "start it as the user it is to be; it locks itself in" },
};

const char *const option_group_names[GROUPS] = {
	[GROUP_MACHINE] = "Machine",
	[GROUP_BOOT] = "What runs in it",
	[GROUP_DISKS] = "Disks",
	[GROUP_NETWORK] = "Network",
	[GROUP_CHARDEV] = "Serial ports, monitors",
	[GROUP_DEVICES] = "Devices",
	[GROUP_PROCESS] = "Process",
};

/* --- One option ---- */

static const struct option *find_option(const char *name)
{
	for (const struct option *o = dialect_options; o->name; o++) {
		if (!strcmp(o->name, name))
			return o;
	}
	return NULL;
}

static void unknown_option(const char *word, const char *name, struct error **err)
{
	char *padded AUTO_FREE = xasprintf(" %s ", name);

	for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
		if (*name && !strchr(name, ' ') && strstr(outside[i].names, padded)) {
			error_set(err, "%s: not supported; %s", word, outside[i].instead);
			return;
		}
	}
	error_set(err, "%s: no such option; -h lists what there is", word);
}

static void replace(char **text, const char *argument)
{
	free(*text);
	*text = xstrdup(argument);
}

static int apply(struct dialect *d, const struct option *o, const char *argument,
		 struct error **err)
{
	char *desc = (char *)d->desc, *dialect = (char *)d;

	switch (o->kind) {
	case OPTION_CALL: return o->call(d, argument, err);
	case OPTION_FLAG: *(bool *)(desc + o->offset) = true; break;
	case OPTION_STRING: replace((char **)(desc + o->offset), argument); break;
	case OPTION_LAST: replace((char **)(dialect + o->offset), argument); break;
	case OPTION_COLLECT:
		if (!*argument) {
			error_set(err, "an empty value; write %s", o->argument);
			return -1;
		}
		collect((char **)(dialect + o->offset), argument, o->implied);
		break;
	case OPTION_NOTHING: break;
	}
	return 0;
}

/* Adds "-device virtio-blk-pci: " in front of what went wrong. */
static int apply_option(struct dialect *d, const struct option *o, const char *argument,
			struct error **err)
{
	struct error *e = NULL;
	int r = apply(d, o, argument, &e);

	if (r < 0) {
		error_prefix(&e, "-%s%s%s: ", o->name, d->subject ? " " : "",
			     d->subject ? d->subject : "");
		error_propagate(err, e);
	}
	free(d->subject);
	d->subject = NULL;
	return r;
}

static int read_argv(struct dialect *d, int argc, char *const argv[], struct error **err)
{
	const struct option *hda = find_option("hda");

	for (int i = 1; i < argc && !d->done; i++) {
		const char *word = argv[i], *name = word + 1;
		const struct option *o;

		if (*word != '-') { /* QEMU's last argument, a disk */
			if (apply_option(d, hda, word, err) < 0)
				return -1;
			continue;
		}
		if (*name == '-')
			name++;
		o = find_option(name);
		if (!o) {
			unknown_option(word, name, err);
			return -1;
		}
		if (o->argument && ++i == argc) {
			error_set(err, "%s: needs an argument, %s", word, o->argument);
			return -1;
		}
		if (apply_option(d, o, o->argument ? argv[i] : NULL, err) < 0)
			return -1;
	}
	return 0;
}

/* --- All of them ---- */

static int check_boot(const struct description *desc, struct error **err)
{
	if (!desc->kernel && (desc->append || desc->initrd)) {
		error_set(err, "%s: only with -kernel", desc->append ? "-append" : "-initrd");
		return -1;
	}
	if (!desc->kernel && desc->action == DESC_RUN) {
		error_set(err, "nothing to boot: there is no firmware, so name a kernel: "
			       "-kernel FILE (-h prints help)");
		return -1;
	}
	return 0;
}

static int finish(struct dialect *d, struct error **err)
{
	if (finish_machine(d, err) < 0)
		return -1;
	if (d->done)
		return 0;
	if (finish_smp(d, err) < 0 || finish_cpu(d, err) < 0 || finish_system(d, err) < 0 ||
	    finish_chardevs(d, err) < 0 || finish_devices(d, err) < 0)
		return -1;
	return check_boot(d->desc, err);
}

static void dialect_clear(struct dialect *d)
{
	free(d->machine);
	free(d->memory);
	free(d->smp);
	free(d->boot);
	free(d->rtc);
	free(d->name);
	free(d->sandbox);
	free(d->cpu);
	free(d->uuid);
	free(d->display);
	list_free(&d->nics);
	for (unsigned i = 0; i < DIALECT_MAX_DISKS; i++)
		list_free(&d->disks[i]);
}

int dialect_parse(int argc, char *const argv[], struct description **out, bool *done,
		  struct error **err)
{
	struct dialect d = { .desc = xcalloc(1, sizeof(*d.desc)) };
	int r = read_argv(&d, argc, argv, err);

	if (r == 0 && !d.done)
		r = finish(&d, err);
	*done = d.done;
	dialect_clear(&d);
	if (r == 0 && !*done) {
		*out = d.desc;
		return 0;
	}
	description_free(d.desc);
	*out = NULL;
	return r;
}
