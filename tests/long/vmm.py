"""vmm: runs the Debian guest of tests/long/image under a monitor that speaks QEMU's dialect.

	with Vmm("revirter", scratch, jobs="disk", disk=path) as vmm:
		vmm.finish(300)
		print(vmm.figures)

A thread reads the guest's console (the monitor's stdout), another one QMP; both put what happened into
lists that wait_for() watches. The monitor dies with this process, even if that is killed.

Where KVM is not usable all of it happens in a testbed: a script calls itself again, inside, with the same
arguments and --scratch DIR, by enter(), which goes on in inside().
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.realpath(os.environ.get("BUILD") or os.path.join(REPO, "build"))
GUEST = os.path.join(BUILD, "guest")
TESTBED_SCRATCH = "/dev/shm/guest"
WRONG_CLOCK = 75
HOST_ADDRESS, TAP = "10.77.0.1/24", "guest0"

MONITORS = {
	"revirter": (os.path.join(BUILD, "revirter"),),
	"qemu": ("qemu-system-x86_64",),
}
# What runs the guest's code: the words for each monitor, and what the guest's kernel is told.
# maxcpus=1: its init starts the others. Why that is safer in the testbed: tests/testbed/inside.sh.
# no_timer_check: the check fails under emulation on a busy host.
BACKENDS = {
	"kvm": ({"revirter": ("-accel", "kvm", "-cpu", "host"), "qemu": ("-accel", "kvm", "-cpu", "host")},
		"quiet maxcpus=1"),
	"soft": ({"revirter": ("-accel", "soft"), "qemu": ("-accel", "tcg,thread=multi", "-cpu", "max")},
		 "no_timer_check"),
}


class Failure(Exception):
	"""What a person should read about a run that went wrong."""


def die(why):
	sys.exit(f"{os.path.basename(sys.argv[0])}: {why}")


def program(monitor):
	"""The monitor's program; there is none with that name, or it is not here: the end."""
	if monitor not in MONITORS:
		die(f"unknown monitor '{monitor}'; there are: {' '.join(MONITORS)}")
	name = MONITORS[monitor][0]
	if not shutil.which(name):
		die(f"{name} is not here")
	return name


def read(path):
	"""A file's text, as far as it can be read."""
	try:
		with open(path, encoding="utf-8", errors="replace") as f:
			return f.read().rstrip("\n")
	except OSError:
		return ""


class Vmm:
	"""One run of a monitor. The root disk is root, or root.raw, read-only; the rest is said by the arguments."""

	def __init__(self, monitor, scratch, jobs="", append="", seconds=5, smp=1, memory=512, disk=None,
		     tap=None, aio="threads", more=(), backend="kvm", kernel="cloud", root=None):
		self.lines, self.events, self.figures = [], [], {}
		self.changed = threading.Condition()
		self.replies = []
		self.socket = os.path.join(scratch, "qmp")
		self.errors = os.path.join(scratch, f"{monitor}.err")
		self.status = None
		accel, parameters = BACKENDS[backend]
		words = [
			program(monitor), "-M", "q35", *accel[monitor], "-smp", str(smp),
			"-m", str(memory), "-nodefaults", "-no-user-config", "-display", "none",
			"-serial", "stdio", "-qmp", f"unix:{self.socket},server=on,wait=off",
			"-kernel", f"{GUEST}/{kernel}/vmlinuz", "-initrd", f"{GUEST}/{kernel}.cpio",
			"-append", f"console=ttyS0 panic=-1 {parameters} guest.jobs={jobs} guest.seconds={seconds} {append}",
			"-drive", f"file={root or GUEST + '/root.raw,readonly=on'},format=raw,if=none,id=root",
			"-device", "virtio-blk-pci,drive=root",
		]
		if disk:
			words += ["-drive", f"file={disk},format=raw,if=none,id=disk,aio={aio}",
				  "-device", "virtio-blk-pci,drive=disk"]
		if tap:
			words += ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no",
				  "-device", "virtio-net-pci,netdev=net"]
		self.words = [*words, *more]
		self.started = time.monotonic()
		with open(self.errors, "w", encoding="utf-8") as errors:
			self.process = subprocess.Popen(
				["setpriv", "--pdeathsig", "KILL", *self.words], stdin=subprocess.DEVNULL,
				stdout=subprocess.PIPE, stderr=errors)
		self.readers = [threading.Thread(target=self._console, daemon=True)]
		self.readers[0].start()
		self.qmp = None

	def __enter__(self):
		return self

	def __exit__(self, *_):
		if self.process.poll() is None:
			self.process.kill()
		self.status = self.process.wait()
		for reader in self.readers:
			reader.join()
		if self.qmp:
			self.qmp.close()
		if os.path.exists(self.socket):
			os.unlink(self.socket)

	def _note(self, kept, what):
		with self.changed:
			kept.append(what)
			self.changed.notify_all()

	def _console(self):
		for line in self.process.stdout:
			line = line.decode(errors="replace").strip("\r\n\0")
			word = line.partition("guest: ")[2].split()
			if len(word) == 3 and word[0] == "figure":
				self.figures[word[1]] = float(word[2])
			self._note(self.lines, line)
		self._note(self.lines, None)

	def _qmp(self):
		try:
			for line in self.qmp.makefile("rb"):
				message = json.loads(line)
				self._note(self.events if "event" in message else self.replies, message)
		except OSError:
			pass
		self._note(self.replies, None)

	def connect(self, seconds=60):
		"""Negotiates QMP."""
		limit = time.monotonic() + seconds
		self.qmp = socket.socket(socket.AF_UNIX)
		while True:
			try:
				self.qmp.connect(self.socket)
				break
			except OSError as why:
				if self.process.poll() is not None or time.monotonic() > limit:
					raise Failure(f"no QMP: {why}; {self.last_words()}") from None
				time.sleep(0.05)
		self.readers.append(threading.Thread(target=self._qmp, daemon=True))
		self.readers[-1].start()
		self._reply(0, seconds)
		self.command("qmp_capabilities")

	def _reply(self, index, seconds):
		with self.changed:
			if not self.changed.wait_for(lambda: len(self.replies) > index, seconds):
				raise Failure(f"QMP: no answer within {seconds} s")
			return self.replies[index]

	def command(self, name, seconds=60, **arguments):
		"""A QMP command; its "return"."""
		with self.changed:
			index = len(self.replies)
		self.qmp.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
		reply = self._reply(index, seconds)
		if not reply or "return" not in reply:
			raise Failure(f"QMP {name}: {reply}")
		return reply["return"]

	def wait_for(self, word, seconds):
		"""Until the guest says "guest: WORD"; what it says up to there must not be a failure."""
		seen = 0

		def news():
			nonlocal seen
			while seen < len(self.lines):
				line = self.lines[seen]
				if line is None:
					raise Failure(f"the guest ended before '{word}'; {self.last_words()}")
				for bad in ("guest: failed", "Kernel panic"):
					if bad in line:
						raise Failure(f"{line.strip()}; {self.last_words()}")
				seen += 1
				if line.endswith(f"guest: {word}"):
					return True
			return False

		with self.changed:
			if not self.changed.wait_for(news, seconds):
				raise Failure(f"no '{word}' within {seconds} s; {self.last_words()}")

	def finish(self, seconds, job=None):
		"""Until the guest has powered off and the monitor has ended with status 0."""
		if job:
			self.wait_for(f"ok {job}", seconds)
		try:
			self.status = self.process.wait(seconds)
		except subprocess.TimeoutExpired:
			raise Failure(f"still there after {seconds} s; {self.threads()}\n{self.last_words()}") from None
		self.__exit__()
		if self.status != 0:
			raise Failure(f"{self.words[0]} ended with status {self.status}; {self.last_words()}")

	def count(self, event):
		return sum(e["event"] == event for e in self.events)

	def threads(self):
		"""What each thread of the monitor waits for, and the last events: of one that hangs."""
		words = ["threads:"]
		base = f"/proc/{self.process.pid}/task"
		for task in os.listdir(base):
			about = [read(f"{base}/{task}/{name}").split(" ") for name in ("comm", "wchan", "syscall")]
			words.append("  " + " ".join(about[0] + about[1] + about[2][:4]))
		return "\n".join([*words, f"last events: {self.events[-3:]}"])

	def last_words(self):
		"""Of the guest and of the monitor, with its log if -D says where that is."""
		console = [line for line in self.lines if line]
		log = read(self.words[self.words.index("-D") + 1]) if "-D" in self.words else ""
		return "\n".join(["last lines of the guest and of the monitor:", *console[-12:],
				  *read(self.errors).splitlines()[-8:], *log.splitlines()[-8:]])


def make_disk(scratch, mebibytes):
	path = os.path.join(scratch, "disk.raw")
	with open(path, "wb") as f:
		f.truncate(mebibytes << 20)
	return path


def make_tap():
	"""A tap with our address; it goes with the network namespace that enter() made."""
	for words in (f"tuntap add {TAP} mode tap", f"address add {HOST_ADDRESS} dev {TAP}", f"link set {TAP} up",
		      "link set lo up"):
		subprocess.run(["ip", *words.split()], check=True)
	return TAP


def start_iperf():
	"""The other side of the guest's iperf3; ends with us."""
	server = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "iperf3", "-s"], stdin=subprocess.DEVNULL,
				  stdout=subprocess.DEVNULL)
	time.sleep(1)
	if server.poll() is not None:
		raise Failure(f"iperf3 -s ended with status {server.returncode}")
	return server


def kvm_usable():
	"""Real KVM on this machine, by revirter's own measure."""
	revirter = MONITORS["revirter"][0]
	return os.path.exists(revirter) and subprocess.run(
		[revirter, "-x-calibrate"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def prepare(*more):
	"""Packages, kernel, image, and what more of the image."""
	subprocess.run([os.path.join(REPO, "tools/setup"), "run", "bench"], check=True)
	subprocess.run([os.path.join(REPO, "tests/long/image"), *more], stdout=subprocess.DEVNULL, check=True)


def command_inside(usable, seconds, arguments):
	"""The command that runs this script again where KVM is real, in a network namespace of its own."""
	again = [os.path.abspath(sys.argv[0]), *arguments, "--scratch"]
	if usable:
		space = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
		scratch = os.path.join(BUILD, "long", f"run.{os.getpid()}")
		return [*space, "--", *again, scratch]
	return [os.path.join(REPO, "tests/testbed/run"), "--cpus", "2", "--timeout", str(seconds), "--",
		"unshare", "--net", "--", *again, TESTBED_SCRATCH]


def enter(usable, seconds, arguments, stdout=None):
	"""Runs this script inside; in another testbed when the clock of the first one is wrong."""
	for _ in range(5):
		done = subprocess.run(command_inside(usable, seconds, arguments), stdout=stdout, text=True, check=False)
		if done.returncode != WRONG_CLOCK:
			break
	return done


def clock_is_right(seconds=2):
	"""Does a second take a second? A testbed that boots on a busy machine can be wrong about its TSC.

	The emulated RTC goes by the machine's clock.
	"""
	def tick():
		with open("/sys/class/rtc/rtc0/since_epoch", encoding="ascii") as f:
			return int(f.read())

	def next_tick(since):
		while tick() == since:
			time.sleep(0.005)
		return time.monotonic()

	begin = tick()
	start = next_tick(begin)
	while tick() < begin + seconds:
		time.sleep(0.1)
	took = next_tick(tick())
	return abs((took - start) / (tick() - begin - 1) - 1) < 0.1


def inside(scratch, work):
	"""Runs work() with the scratch folder, which goes afterwards, however it ends."""
	def end(*_):
		sys.exit(143)

	for number in (signal.SIGTERM, signal.SIGHUP):
		signal.signal(number, end)
	if scratch == TESTBED_SCRATCH and not clock_is_right():
		print("the testbed's clock is wrong, once more", file=sys.stderr)
		return WRONG_CLOCK
	os.makedirs(scratch)
	try:
		return work()
	finally:
		shutil.rmtree(scratch, ignore_errors=True)
