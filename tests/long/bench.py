"""bench: what tests/bench/disk and net have in common: options, rounds, places to run in, the table."""
import argparse
import json
import statistics
import subprocess
import sys

import vmm

LIMIT = 900


def rounds(monitors, n, usable, arguments):
	"""{monitor: {name: [figures]}}; the monitors in turn. A run that fails says why and ends the bench."""
	runs = {monitor: {} for monitor in monitors}
	for number in range(n):
		for monitor in monitors:
			done = vmm.enter(usable, LIMIT, [*arguments, monitor], stdout=subprocess.PIPE)
			if done.returncode != 0:
				vmm.die(f"round {number + 1} of {monitor} failed, status {done.returncode}")
			for name, value in json.loads(done.stdout).items():
				runs[monitor].setdefault(name, []).append(value)
	return runs


def table(title, unit, runs):
	"""Prints the medians, and revirter's against QEMU's."""
	medians = {m: {name: statistics.median(v) for name, v in figures.items()} for m, figures in runs.items()}
	names = dict.fromkeys(name for figures in runs.values() for name in figures)
	print(f"{title:<22}" + "".join(f"{m:>12}" for m in runs) + f"{'to qemu':>10}   {unit}")
	for name in names:
		row = f"{name:<22}" + "".join(f"{medians[m].get(name, float('nan')):>12.1f}" for m in runs)
		mine, base = (medians.get(m, {}).get(name) for m in ("revirter", "qemu"))
		print(row + (f"{mine / base:>10.2f}" if mine and base else f"{'-':>10}"))


def main(title, unit, once, seconds, aio=None):
	"""once(monitor, args) makes one run, inside, and returns {name: figure}."""
	parser = argparse.ArgumentParser(usage=sys.modules["__main__"].__doc__.split("\n")[2].strip())
	parser.add_argument("-n", type=int, default=3)
	parser.add_argument("-t", type=int, default=seconds)
	if aio:
		parser.add_argument("--aio", choices=("threads", "io_uring"), default=aio)
	parser.add_argument("--scratch")
	parser.add_argument("monitors", nargs="*", default=list(vmm.MONITORS))
	args = parser.parse_args()
	if args.scratch:
		try:
			return vmm.inside(args.scratch, lambda: print(json.dumps(once(args.monitors[0], args))))
		except vmm.Failure as why:
			vmm.die(why)
	for monitor in args.monitors:
		vmm.program(monitor)
	vmm.prepare()
	usable = vmm.kvm_usable()
	arguments = ["-t", str(args.t)] + (["--aio", args.aio] if aio else [])
	print(f"{title}, on {'this machine' if usable else 'the testbed'}'s KVM, {args.n} rounds in turn", flush=True)
	table("", unit, rounds(args.monitors, args.n, usable, arguments))
	return 0
